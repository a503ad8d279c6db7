variable "python" {
  type        = string
  default     = "3.11"
  description = "The Python minor that calls run: 3.11, 3.12, 3.13 or 3.14. Clients must have the same."
}

variable "runtime" {
  type        = string
  default     = "conda"
  description = "Where calls' packages come from: conda (MKL), wheels (PyPI, OpenBLAS, the base's own Python), none."
}

variable "slim" {
  type        = bool
  default     = true
  description = "Remove the parts of MKL that no instance loads (scripts/slim-mkl.sh)."
}

variable "wren_version" {
  type        = string
  default     = "unknown"
  description = "The version of wren_worker that builds, for the tags."
}

variable "region" {
  type    = string
  default = "us-east-1"
}

variable "profile" {
  type        = string
  default     = ""
  description = "A profile of your AWS configuration."
}

variable "instance_type" {
  type        = string
  default     = "c5.xlarge"
  description = "The machine that builds; Intel, so that the check at the end runs what most instances run."
}

variable "subnet" {
  type        = string
  default     = ""
  description = "Where it builds; empty is the default VPC's."
}

# Source: wiki.debian.org/Cloud/AmazonEC2Image and documentation.ubuntu.com/aws, owners read 2026-11.
variable "base_owner" {
  type        = string
  default     = "136693071363"
  description = "Debian; Ubuntu is 099720109477."
}

variable "base_name" {
  type        = string
  default     = "debian-12-amd64-*"
  description = "Ubuntu is ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-*."
}

variable "ssh_username" {
  type        = string
  default     = "admin"
  description = "Ubuntu is ubuntu."
}

variable "root_device" {
  type        = string
  default     = "/dev/xvda"
  description = "Ubuntu is /dev/sda1."
}

variable "volume_size" {
  type        = number
  default     = 12
  description = "GiB of the root disk while building; a launch gives instances more."
}

variable "encrypt" {
  type        = bool
  default     = true
  description = "Encrypt disk and snapshot with the account's default key. Such an image cannot be shared with other accounts."
}

variable "build_minutes" {
  type        = number
  default     = 120
  description = "A build machine that its packer has forgotten ends itself after so long."
}

variable "output" {
  type        = string
  default     = "."
  description = "The folder for manifest.json and runtime.json."
}

# for tests, which provision a machine that they can reach by ssh
variable "ssh_host" {
  type    = string
  default = "127.0.0.1"
}

variable "ssh_port" {
  type    = number
  default = 22
}

variable "ssh_key" {
  type    = string
  default = ""
}

variable "become" {
  type        = string
  default     = "sudo -n"
  description = "What a provisioner becomes root by; empty for a machine entered as root."
}
