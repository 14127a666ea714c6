#!/bin/sh
# Sends customers' mail, both ways, to the agents beside this router.
# Made by `weir-agent router-config linux` from the agent's configuration.
# After a change there: make it anew and run it; it takes the place of what it put there before.
set -eu

table=25 preference=2500

while ip -4 rule del preference $preference 2>/dev/null; do :; done
while ip -6 rule del preference $preference 2>/dev/null; do :; done

# Customers' mail, and the answers to it. Not what comes from the agents.
ip -4 rule add preference $preference iif cust0 from 10.1.0.0/16 ipproto tcp dport 25 table $table
ip -4 rule add preference $preference iif inet0 to 10.1.0.0/16 ipproto tcp sport 25 table $table
ip -6 rule add preference $preference iif cust0 from fd01::/32 ipproto tcp dport 25 table $table
ip -6 rule add preference $preference iif inet0 to fd01::/32 ipproto tcp sport 25 table $table

well() {
    case $1 in *:*) host="[$1]" ;; *) host=$1 ;; esac
    curl --silent --fail --max-time 1 --output /dev/null "http://$host:9125/metrics"
}

# One agent at a time, and the same one as long as it is well: it knows its sessions.
choose() {
    family=$1
    shift
    current=$(ip "$family" route show default table $table 2>/dev/null | sed -n 's/^default via \([^ ]*\).*/\1/p')
    for agent in $current "$@"; do
        if well "$agent"; then
            ip "$family" route replace default via "$agent" table $table metric 1
            return
        fi
    done
    ip "$family" route del default table $table metric 1 2>/dev/null || true
}

check() {
    choose -4 10.5.0.2 10.6.0.2
    choose -6 fd05::2 fd06::2
}

# Once, or with the argument `watch` every second: that is for a service.
check
while [ "${1:-}" = watch ]; do
    sleep 1
    check
done
