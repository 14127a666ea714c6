#!/bin/sh
# A customer's machine: swaks, which sends a message and shows the conversation.
#
#   customer.sh    as root on Debian 12
set -eu

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends swaks
echo "customer: swaks --server 10.2.0.2 --to user@destination.test"
