"""What an instance and a client may do, and nothing else."""

from __future__ import annotations

import json

import pytest

from wren_worker.config import Names
from wren_worker.fleet.policies import client_policy, instance_policy, role_commands, setup_policy, trust_policy
from wren_worker.fleet.setup import plan
from wren_worker.protocol.provision import Kind

NAMES = Names(fleet="night", account="123456789012", region="eu-west-1")
BUCKET = "arn:aws:s3:::wren-123456789012-eu-west-1-night"


def statements(policy):
    return policy["Statement"]


def listed(value):
    return [value] if isinstance(value, str) else list(value)


def resources_of(policy, action):
    return [
        resource
        for statement in statements(policy)
        if action in listed(statement["Action"])
        for resource in listed(statement["Resource"])
    ]


def test_an_instance_may_nothing_on_ec2_or_iam_and_no_wildcards():
    actions = [action for statement in statements(instance_policy(NAMES)) for action in listed(statement["Action"])]
    assert {action.partition(":")[0] for action in actions} == {"sqs", "s3", "logs"}
    assert not [action for action in actions if "*" in action]
    for forbidden in ("logs:CreateLogGroup", "s3:DeleteObject", "sqs:SendMessageBatch", "sqs:CreateQueue"):
        assert forbidden not in actions


def test_an_instance_reaches_its_own_fleet_alone():
    for statement in statements(instance_policy(NAMES)):
        for resource in listed(statement["Resource"]):
            assert resource.startswith((BUCKET, "arn:aws:sqs:eu-west-1:123456789012:wren-night-")) or resource == (
                "arn:aws:logs:eu-west-1:123456789012:log-group:pywren-standalone:*"
            )


def test_an_instance_reads_jobs_and_writes_outcomes():
    policy = instance_policy(NAMES)
    assert resources_of(policy, "s3:PutObject") == [f"{BUCKET}/results/*", f"{BUCKET}/state/*"]
    assert f"{BUCKET}/jobs/*" in resources_of(policy, "s3:GetObject")
    assert f"{BUCKET}/results/*" in resources_of(policy, "s3:GetObject")
    assert resources_of(policy, "sqs:SendMessage") == ["arn:aws:sqs:eu-west-1:123456789012:wren-night-reply-*"]
    assert resources_of(policy, "sqs:ReceiveMessage") == ["arn:aws:sqs:eu-west-1:123456789012:wren-night-tasks-*"]


def test_an_instance_lists_results_alone():
    [listing] = [one for one in statements(instance_policy(NAMES)) if one["Action"] == "s3:ListBucket"]
    assert listing["Resource"] == BUCKET
    assert listing["Condition"] == {"StringLike": {"s3:prefix": "results/*"}}


def test_a_client_ends_only_its_fleets_instances_and_passes_one_role():
    policy = client_policy(NAMES)
    [end] = [one for one in statements(policy) if "ec2:TerminateInstances" in listed(one["Action"])]
    assert end["Condition"] == {"StringEquals": {"ec2:ResourceTag/wren:fleet": "night"}}
    assert resources_of(policy, "iam:PassRole") == ["arn:aws:iam::123456789012:role/wren-night-instance"]
    assert "s3:DeleteObject" not in json.dumps(policy)


@pytest.mark.parametrize("policy", [instance_policy(NAMES), client_policy(NAMES), setup_policy(NAMES)])
def test_policies_are_json_within_iams_bounds(policy):
    text = json.dumps(policy, separators=(",", ":"))
    assert len(text) <= 6144  # a managed policy's size, spaces not counted
    assert policy["Version"] == "2012-10-17"
    sids = [one["Sid"] for one in statements(policy)]
    assert len(set(sids)) == len(sids)
    assert all(sid.isalnum() for sid in sids)


def test_the_tag_that_the_policy_asks_for_is_the_one_that_setup_puts_on_the_template():
    [prepare] = [one for one in statements(client_policy(NAMES)) if one["Sid"] == "PrepareLaunch"]
    [template] = [one for one in plan(NAMES) if one.kind is Kind.TEMPLATE]
    asked = prepare["Condition"]["StringEquals"]
    assert asked == {f"aws:ResourceTag/{name}": value for name, value in template.settings["tags"].items()}


# --- the plan ---------------------------------------------------------------------------------------------------------


def test_names_are_those_of_the_design():
    found = [(one.kind, one.name) for one in plan(NAMES, ("3.11",))]
    assert found == [
        (Kind.BUCKET, "wren-123456789012-eu-west-1-night"),
        (Kind.QUEUE, "wren-night-tasks-v1-py311-dead"),
        (Kind.QUEUE, "wren-night-tasks-v1-py311"),
        (Kind.LOG_GROUP, "pywren-standalone"),
        (Kind.ROLE, "wren-night-instance"),
        (Kind.PROFILE, "wren-night-instance"),
        (Kind.TEMPLATE, "wren-night"),
        (Kind.GROUP, "wren-night"),
    ]


def test_what_powers_itself_off_is_terminated_and_reads_metadata_with_tokens_alone():
    [template] = [one for one in plan(NAMES) if one.kind is Kind.TEMPLATE]
    data = template.settings["data"]
    assert data["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert data["IamInstanceProfile"] == {"Name": "wren-night-instance"}
    assert data["MetadataOptions"] == {
        "HttpTokens": "required",
        "HttpPutResponseHopLimit": 1,
        "HttpEndpoint": "enabled",
        "InstanceMetadataTags": "enabled",
    }


def test_messages_outlive_a_weekend_and_objects_outlive_messages():
    resources = plan(NAMES, ("3.11",))
    dead, tasks = [one for one in resources if one.kind is Kind.QUEUE]
    assert tasks.settings["attributes"]["MessageRetentionPeriod"] == 14 * 86400
    assert dead.settings["attributes"]["MessageRetentionPeriod"] == 14 * 86400
    rules = resources[0].settings["lifecycle"]["Rules"]
    assert min(rule["Expiration"]["Days"] for rule in rules if "Expiration" in rule) > 14


def test_the_commands_for_somebody_elses_hands_say_what_setup_would_make():
    import shlex

    words = [shlex.split(command) for command in role_commands(NAMES)]
    assert all(one[:2] == ["aws", "iam"] for one in words)
    assert json.loads(words[0][-1]) == trust_policy()
    assert json.loads(words[1][-1]) == instance_policy(NAMES)
    assert [one[2] for one in words] == [
        "create-role",
        "put-role-policy",
        "create-instance-profile",
        "add-role-to-instance-profile",
    ]
    assert all("wren-night-instance" in one for one in words)


def test_nobody_is_let_in():
    text = json.dumps([client_policy(NAMES), setup_policy(NAMES)])
    assert "AuthorizeSecurityGroupIngress" not in text
    assert "ec2:*" not in text
