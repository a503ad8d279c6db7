# The machine image: dependencies only. The launcher's own wheel is installed at boot, so both sides are equal at launch.
#   packer init packer && packer build -only=amazon-ebs.wren -var python=3.12 packer
# wren-standalone image build does the same, and puts the runtime's digest into the tags.

locals {
  stamp       = formatdate("YYYYMMDD-hhmmss", timestamp())
  environment = "environment-py${replace(var.python, ".", "")}.yml"

  tags = {
    "Name"         = "wren-py${var.python}"
    "wren:version" = var.wren_version
    "wren:python"  = var.python
    # what was asked for; image build replaces it by the digest of what came
    "wren:runtime" = "${var.runtime}-asked-${substr(sha256(file("${path.root}/${local.environment}")), 0, 16)}"
  }
}

source "amazon-ebs" "wren" {
  region        = var.region
  profile       = var.profile
  instance_type = var.instance_type
  subnet_id     = var.subnet
  ssh_username  = var.ssh_username
  ssh_timeout   = "10m"

  # today's sshd refuses the RSA signatures of older packers
  temporary_key_pair_type   = "ed25519"
  ssh_clear_authorized_keys = true
  # the one open port of all: for this build, to this address
  temporary_security_group_source_public_ip = true

  source_ami_filter {
    owners      = [var.base_owner]
    most_recent = true
    filters = {
      name                = var.base_name
      architecture        = "x86_64"
      root-device-type    = "ebs"
      virtualization-type = "hvm"
    }
  }

  # the machine that builds ...
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
  # ... and every one that is launched from the image, whoever launches it
  imds_support = "v2.0"

  launch_block_device_mappings {
    device_name           = var.root_device
    volume_type           = "gp3"
    volume_size           = var.volume_size
    encrypted             = var.encrypt
    delete_on_termination = true
  }

  # packer's own end may be a closed laptop: then the machine ends itself, and stops costing
  shutdown_behavior = "terminate"
  user_data         = "#!/bin/sh\nshutdown -P +${var.build_minutes}\n"

  ami_name        = "wren-py${var.python}-${local.stamp}"
  ami_description = "wren_worker ${var.wren_version}: Python ${var.python} and the packages that calls find"
  tags            = local.tags
  snapshot_tags   = local.tags
  run_tags        = { "Name" = "wren-image-build", "wren:python" = var.python }
  run_volume_tags = { "Name" = "wren-image-build", "wren:python" = var.python }
}

source "null" "machine" {
  communicator         = "ssh"
  ssh_host             = var.ssh_host
  ssh_port             = var.ssh_port
  ssh_username         = var.ssh_username
  ssh_private_key_file = var.ssh_key
  ssh_timeout          = "2m"
}

build {
  sources = ["source.amazon-ebs.wren", "source.null.machine"]

  provisioner "shell" {
    inline = ["rm -rf /tmp/wren", "mkdir -m 0755 -p /tmp/wren/packer /tmp/wren/cloud-init"]
  }

  # laid out as they lie here: beside one another
  provisioner "file" {
    source      = "${path.root}/"
    destination = "/tmp/wren/packer"
  }

  provisioner "file" {
    source      = "${path.root}/../cloud-init/"
    destination = "/tmp/wren/cloud-init"
  }

  provisioner "file" {
    source      = "${path.root}/../supervisord.conf"
    destination = "/tmp/wren/supervisord.conf"
  }

  provisioner "shell" {
    execute_command = "${var.become} env {{ .Vars }} bash '{{ .Path }}'"
    environment_vars = [
      "WREN_FILES=/tmp/wren",
      "WREN_PYTHON_MINOR=${var.python}",
      "WREN_RUNTIME=${var.runtime}",
      "WREN_SLIM=${var.slim}",
    ]
    scripts = [
      "${path.root}/scripts/base.sh",
      "${path.root}/scripts/daemon.sh",
      "${path.root}/scripts/runtime.sh",
      "${path.root}/scripts/units.sh",
      "${path.root}/scripts/record.sh",
      "${path.root}/scripts/clean.sh",
    ]
  }

  provisioner "file" {
    direction   = "download"
    source      = "/opt/wren/etc/runtime.json"
    destination = "${var.output}/runtime.json"
  }

  post-processor "manifest" {
    output = "${var.output}/manifest.json"
  }
}
