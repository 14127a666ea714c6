#!/bin/sh
# Sends customers' mail, both ways, to the agents beside this router.
# Made by `weir-agent router-config frr` from the agent's configuration.
# After a change there: make it anew and run it; it takes the place of what it put there before. Where interfaces or a
# family are gone, undo the old one first.
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

# The families whose mail goes to an agent's host now; without one it goes straight.
wanted() {
    for family in -4 -6; do
        if ip "$family" route show "$(route_of_mail "$family")" | grep -q ' via '; then echo "$family"; fi
    done
}

table() {
    cat <<'END'
table inet weir_router
delete table inet weir_router
table inet weir_router {
	set customers_v4 { type ipv4_addr; flags interval; auto-merge; elements = { 10.1.0.0/16 } }
	set customers_v6 { type ipv6_addr; flags interval; auto-merge; elements = { fd01::/32 } }
	chain prerouting { type filter hook prerouting priority mangle; policy accept; }
}
END
}

marks() {
    case $1 in
    -4) cat <<'END'
add rule inet weir_router prerouting iifname { "cust0" } ip saddr @customers_v4 tcp dport 25 meta mark set 0x19
add rule inet weir_router prerouting iifname { "inet0" } ip daddr @customers_v4 tcp sport 25 meta mark set 0x19
END
    ;;
    -6) cat <<'END'
add rule inet weir_router prerouting iifname { "cust0" } ip6 saddr @customers_v6 tcp dport 25 meta mark set 0x19
add rule inet weir_router prerouting iifname { "inet0" } ip6 daddr @customers_v6 tcp sport 25 meta mark set 0x19
END
    ;;
    esac
}

policy() {
    vtysh -f /dev/stdin <<'END'
nexthop-group weir-v4
 no nexthop 192.0.0.8
 nexthop 192.0.0.8
exit
nexthop-group weir-v6
 no nexthop 100::25
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
}

# What is marked follows what is wanted; and what others have taken away is put back: nftables that were reloaded, FRR that
# was started again.
follow() {
    now=$(wanted)
    if [ "$now" != "$marked" ] || ! nft list table inet weir_router >/dev/null 2>&1; then
        { table; for family in $now; do marks "$family"; done; } | nft -f - && marked=$now
    fi
    has_policy && return
    # A next hop that was named before FRR's daemons knew each other is never found: it is named anew.
    policy || return
    if ! vtysh -c 'show pbr map weir' 2>/dev/null | grep -q weir; then
        echo "FRR has no policy: do zebra and pbrd run (pbrd=yes in /etc/frr/daemons)?" >&2
        return 1
    fi
}

has_policy() {
    groups=$(vtysh -c 'show pbr nexthop-groups' 2>/dev/null)
    for family in $now; do
        echo "$groups" | grep -q "weir-v${family#-} .*Valid: 1" || return
    done
}

# What `closed` had put there.
ip -4 route del unreachable "$(route_of_mail -4)" metric 4000 2>/dev/null || true
ip -4 rule del preference 2500 2>/dev/null || true
ip -6 route del unreachable "$(route_of_mail -6)" metric 4000 2>/dev/null || true
ip -6 rule del preference 2500 2>/dev/null || true

marked=none
check
follow

# With the argument `watch` for ever: that is for a service.
while [ "${1:-}" = watch ]; do
    sleep 1
    check
    follow || true
done
