#!/bin/sh
# The gateway: routes between customers (10.1.0.0/16) and internet (10.2.0.0/16), and has weir-agent intercept port 25.
#
#   gateway.sh [DIRECTORY]    as root on Debian 12; the directory has weir's packages, by default /dist
set -eu

# The interface that has an address.
interface() {
    name=$(ip -o address show to "$1" | awk '{ print $2 }')
    if [ -z "$name" ]; then
        echo "gateway: no interface has $1" >&2
        exit 1
    fi
    echo "$name"
}
customers=$(interface 10.1.0.1)
internet=$(interface 10.2.0.1)

echo "net.ipv4.ip_forward = 1" >/etc/sysctl.d/60-gateway.conf
systemctl restart systemd-sysctl

# The newest. The configuration is this script's, whatever a package brings.
dpkg --force-confold -i "$(find "${1:-/dist}" -name 'weir-agent_*.deb' | sort -V | tail -n 1)"
cat >/etc/weir/agent.toml <<END
[steering]
backend = "ebpf"
customer_interfaces = ["$customers"]
internet_interfaces = ["$internet"]

[customers]
prefixes = ["10.1.0.0/16"]

[filter]
nodes = ["10.3.0.11:10025"]
END
weir-agent check --config /etc/weir/agent.toml
systemctl enable --quiet weir-agent
systemctl restart weir-agent
weir-agent status
echo "gateway: intercepts what $customers sends to port 25 behind $internet"
