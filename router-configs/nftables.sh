#!/bin/sh
# Steers customers' mail into weir-agent with nftables, on the agent's own host.
# Made by `weir-agent router-config nftables` from the agent's configuration.
# After a change there: make it anew and run it; it takes the place of what it put there before. Where interfaces or a
# family are gone, undo the old one first.
set -eu

ip -4 route replace local default dev lo table 100
ip -4 rule show iif cust0 fwmark 0x4d580000/0xffff0000 table 100 | grep -q . || ip -4 rule add iif cust0 fwmark 0x4d580000/0xffff0000 table 100
ip -4 rule show iif inet0 fwmark 0x4d580000/0xffff0000 table 100 | grep -q . || ip -4 rule add iif inet0 fwmark 0x4d580000/0xffff0000 table 100
ip -6 route replace local default dev lo table 100
ip -6 rule show iif cust0 fwmark 0x4d580000/0xffff0000 table 100 | grep -q . || ip -6 rule add iif cust0 fwmark 0x4d580000/0xffff0000 table 100
ip -6 rule show iif inet0 fwmark 0x4d580000/0xffff0000 table 100 | grep -q . || ip -6 rule add iif inet0 fwmark 0x4d580000/0xffff0000 table 100

nft -f - <<'END'
table inet weir_external
delete table inet weir_external
table inet weir_external {
	set customers_v4 { type ipv4_addr; flags interval; auto-merge; elements = { 10.1.0.0/16 } }
	set customers_v6 { type ipv6_addr; flags interval; auto-merge; elements = { fd01::/32 } }
	chain prerouting {
		type filter hook prerouting priority mangle; policy accept;
		# The agent's connections, and ICMP errors about them, without which path MTU discovery fails.
		iifname { "cust0", "inet0" } meta l4proto { tcp, icmp, ipv6-icmp } socket transparent 1 meta mark set meta mark & 0x0000ffff | 0x4d580000 accept
		# Customers' new connections; mail to this host itself is its own.
		iifname { "cust0" } ip saddr @customers_v4 tcp dport 25 tcp flags & (syn | ack | rst) == syn fib daddr type local accept
		iifname { "cust0" } ip saddr @customers_v4 tcp dport 25 tcp flags & (syn | ack | rst) == syn tproxy ip to :2525 meta mark set meta mark & 0x0000ffff | 0x4d580000 accept
		# Without the agent's listener no rule decides: they go on straight.
		# Customers' new connections; mail to this host itself is its own.
		iifname { "cust0" } ip6 saddr @customers_v6 tcp dport 25 tcp flags & (syn | ack | rst) == syn fib daddr type local accept
		iifname { "cust0" } ip6 saddr @customers_v6 tcp dport 25 tcp flags & (syn | ack | rst) == syn tproxy ip6 to :2525 meta mark set meta mark & 0x0000ffff | 0x4d580000 accept
		# Without the agent's listener no rule decides: they go on straight.
	}
}
END
