#!/bin/sh
# Sends customers' mail, both ways, to the agents beside this router.
# Made by `weir-agent router-config frr` from the agent's configuration.
# After a change there: make it anew and run it; it takes the place of what it put there before.
set -eu

route_of_mail() {
    case $1 in
    -4) echo 192.0.0.8/32 ;;
    -6) echo 100::25/128 ;;
    esac
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

check

vtysh -f /dev/stdin <<'END'
nexthop-group weir-v4
 nexthop 192.0.0.8
exit
nexthop-group weir-v6
 nexthop 100::25
exit
pbr-map weir seq 10
 match mark 25
 set nexthop-group weir-v4
exit
pbr-map weir seq 20
 match mark 25
 set nexthop-group weir-v6
exit
interface cust0
 pbr-policy weir
exit
interface inet0
 pbr-policy weir
exit
END

nft -f - <<'END'
table inet weir_router
delete table inet weir_router
table inet weir_router {
	set customers_v4 { type ipv4_addr; flags interval; auto-merge; elements = { 10.1.0.0/16 } }
	set customers_v6 { type ipv6_addr; flags interval; auto-merge; elements = { fd01::/32 } }
	chain prerouting {
		type filter hook prerouting priority mangle; policy accept;
		iifname { "cust0" } ip saddr @customers_v4 tcp dport 25 meta mark set 0x19
		iifname { "cust0" } ip6 saddr @customers_v6 tcp dport 25 meta mark set 0x19
		iifname { "inet0" } ip daddr @customers_v4 tcp sport 25 meta mark set 0x19
		iifname { "inet0" } ip6 daddr @customers_v6 tcp sport 25 meta mark set 0x19
	}
}
END

# With the argument `watch` for ever: that is for a service.
while [ "${1:-}" = watch ]; do
    sleep 1
    check
done
