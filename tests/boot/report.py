"""What the drill prints."""

from __future__ import annotations


def table(scenarios, outcomes):
    """Print a line per scenario, boot timelines, and what went wrong."""
    width = max(len(s.name) for s in scenarios)
    print(f"\n{'scenario':{width}}  {'ended by':9}  {'s from cause':>12}  {'calls lost':>10}  why")
    for scenario, outcome in zip(scenarios, outcomes, strict=True):
        lost = "-" if outcome.lost is None else str(outcome.lost)
        why = "; ".join([outcome.why[:60], *outcome.notes])
        mark = "!" if outcome.failures else " "
        print(f"{scenario.name:{width}}{mark} {outcome.who:9}  {outcome.seconds:12.1f}  {lost:>10}  {why}")
    for scenario, outcome in zip(scenarios, outcomes, strict=True):
        if outcome.timeline:
            print(f"\nboot of '{scenario.name}', seconds from power-on:")
            for step, when in outcome.timeline.items():
                print(f"  {when:6.2f}  {step}")
    for scenario, outcome in zip(scenarios, outcomes, strict=True):
        for failure in outcome.failures:
            print(f"\n{scenario.name}: {failure}")
    print()
