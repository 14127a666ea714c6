#!/bin/sh
# Sends customers' mail, both ways, to the agents beside this router.
# Made by `weir-agent router-config linux` from the agent's configuration.
# After a change there: make it anew and run it; it takes the place of what it put there before. Where interfaces or a
# family are gone, undo the old one first.
set -eu

table=25 preference=2500

clear() {
    while ip -4 rule del preference "$1" 2>/dev/null; do :; done
    while ip -6 rule del preference "$1" 2>/dev/null; do :; done
}

# Customers' mail, and the answers to it. Not what comes from the agents.
rules() {
    ip -4 rule add preference "$1" iif cust0 from 10.1.0.0/16 ipproto tcp dport 25 table $table
    ip -4 rule add preference "$1" iif inet0 to 10.1.0.0/16 ipproto tcp sport 25 table $table
    ip -6 rule add preference "$1" iif cust0 from fd01::/32 ipproto tcp dport 25 table $table
    ip -6 rule add preference "$1" iif inet0 to fd01::/32 ipproto tcp sport 25 table $table
}

route_of_mail() {
    echo "default table $table"
}

is_there() {
    ping -c 1 -W 1 "$1" >/dev/null 2>&1
}

# Not, if it is silent three times in a row: one that is being taken over from is silent for a second.
is_well() {
    case $1 in
    *:*) url="http://[$1]:9125/metrics" ;;
    *) url="http://$1:9125/metrics" ;;
    esac
    for pause in 1 1 0; do
        curl --silent --fail --max-time 1 --output /dev/null "$url" && return
        sleep $pause
    done
    return 1
}

# By way of the first of these that is as it should be. A route is several words.
# shellcheck disable=SC2046
by() {
    test=$1 family=$2
    shift 2
    for agent; do
        if "$test" "$agent"; then
            ip "$family" route replace $(route_of_mail "$family") via "$agent" metric 1 || true
            return
        fi
    done
    return 1
}

# The same agent as long as it is well, for it knows its sessions; then another; then one whose host is there, where it is
# decided what becomes of mail without an agent.
# shellcheck disable=SC2046,SC2086
choose() {
    family=$1
    shift
    current=$(ip "$family" route show $(route_of_mail "$family") 2>/dev/null | sed -n 's/^[^ ]* via \([^ ]*\).*/\1/p')
    by is_well "$family" $current "$@" || by is_there "$family" $current "$@" ||
        ip "$family" route del $(route_of_mail "$family") metric 1 2>/dev/null || true
}

check() {
    choose -4 10.5.0.2 10.6.0.2
    choose -6 fd05::2 fd06::2
}

# What `closed` had put there.
ip -4 route del unreachable default table $table metric 4000 2>/dev/null || true
ip -6 route del unreachable default table $table metric 4000 2>/dev/null || true

check
# Those that are there are never missed: new ones are put behind them first.
clear $((preference + 1))
rules $((preference + 1))
clear $preference
rules $preference
clear $((preference + 1))

# With the argument `watch` for ever: that is for a service.
while [ "${1:-}" = watch ]; do
    sleep 1
    check
done
