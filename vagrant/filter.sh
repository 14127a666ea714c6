#!/bin/sh
# The filter node: weir-filter, which judges what the gateway's agent asks it about.
#
#   filter.sh [DIRECTORY]    as root on Debian 12; the directory has weir's packages, by default /dist
set -eu

# The newest. The configuration is this script's, whatever a package brings.
dpkg --force-confold -i "$(find "${1:-/dist}" -name 'weir-filter_*.deb' | sort -V | tail -n 1)"
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
