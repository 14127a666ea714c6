#!/bin/sh
# The filter node: weir-filter, which judges what the gateway's agent asks it about.
#
#   filter.sh [DIRECTORY]    as root on Debian 12; the directory has weir's packages, by default /dist
set -eu

dpkg -i "${1:-/dist}"/weir-filter_*.deb
cat >/etc/weir/filter.toml <<'END'
[smtp]
listen = ["10.3.0.11:10025"]
# The gateway, as this node sees it. Nobody else may connect.
proxies = ["10.3.0.1/32"]
END
weir-filter check --config /etc/weir/filter.toml
systemctl enable --quiet weir-filter
systemctl restart weir-filter
weir-filter status
echo "filter: judges at 10.3.0.11, port 10025"
