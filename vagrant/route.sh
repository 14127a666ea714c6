#!/bin/sh
# A route that is there again after a restart.
#
#   route.sh NETWORK ROUTER    as root on Debian 12; for example: route.sh 10.2.0.0/16 10.1.0.1
set -eu

if [ $# -ne 2 ]; then
    echo "usage: $0 NETWORK ROUTER" >&2
    exit 2
fi
cat >/etc/systemd/system/lab-route.service <<END
[Unit]
Description=Route to $1
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=ip route replace $1 via $2

[Install]
WantedBy=multi-user.target
END
systemctl daemon-reload
systemctl enable --quiet lab-route
systemctl restart lab-route
