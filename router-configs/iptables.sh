#!/bin/sh
# Steers customers' mail into weir-agent with iptables, on the agent's own host.
# Made by `weir-agent router-config iptables` from the agent's configuration.
# After a change there: make it anew and run it; it takes the place of what it put there before. Where interfaces or a
# family are gone, undo the old one first.
set -eu

ip -4 route replace local default dev lo table 100
ip -4 rule show iif cust0 fwmark 0x4d580000/0xffff0000 table 100 | grep -q . || ip -4 rule add iif cust0 fwmark 0x4d580000/0xffff0000 table 100
ip -4 rule show iif inet0 fwmark 0x4d580000/0xffff0000 table 100 | grep -q . || ip -4 rule add iif inet0 fwmark 0x4d580000/0xffff0000 table 100
ip -6 route replace local default dev lo table 100
ip -6 rule show iif cust0 fwmark 0x4d580000/0xffff0000 table 100 | grep -q . || ip -6 rule add iif cust0 fwmark 0x4d580000/0xffff0000 table 100
ip -6 rule show iif inet0 fwmark 0x4d580000/0xffff0000 table 100 | grep -q . || ip -6 rule add iif inet0 fwmark 0x4d580000/0xffff0000 table 100

iptables -w -t mangle -N WEIR 2>/dev/null || iptables -w -t mangle -F WEIR
iptables -w -t mangle -C PREROUTING -j WEIR 2>/dev/null || iptables -w -t mangle -A PREROUTING -j WEIR
# The agent's connections, and ICMP errors about them, without which path MTU discovery fails.
iptables -w -t mangle -A WEIR -i cust0 -p tcp -m socket --transparent -j MARK --set-xmark 0x4d580000/0xffff0000
iptables -w -t mangle -A WEIR -i cust0 -p tcp -m socket --transparent -j ACCEPT
iptables -w -t mangle -A WEIR -i cust0 -p icmp -m socket --transparent -j MARK --set-xmark 0x4d580000/0xffff0000
iptables -w -t mangle -A WEIR -i cust0 -p icmp -m socket --transparent -j ACCEPT
iptables -w -t mangle -A WEIR -i inet0 -p tcp -m socket --transparent -j MARK --set-xmark 0x4d580000/0xffff0000
iptables -w -t mangle -A WEIR -i inet0 -p tcp -m socket --transparent -j ACCEPT
iptables -w -t mangle -A WEIR -i inet0 -p icmp -m socket --transparent -j MARK --set-xmark 0x4d580000/0xffff0000
iptables -w -t mangle -A WEIR -i inet0 -p icmp -m socket --transparent -j ACCEPT
iptables -w -t mangle -A WEIR -m addrtype --dst-type LOCAL -j RETURN
iptables -w -t mangle -A WEIR -i cust0 -s 10.1.0.0/16 -p tcp --dport 25 --tcp-flags SYN,ACK,RST SYN -j TPROXY --on-port 2525 --tproxy-mark 0x4d580000/0xffff0000
ip6tables -w -t mangle -N WEIR 2>/dev/null || ip6tables -w -t mangle -F WEIR
ip6tables -w -t mangle -C PREROUTING -j WEIR 2>/dev/null || ip6tables -w -t mangle -A PREROUTING -j WEIR
# The agent's connections, and ICMP errors about them, without which path MTU discovery fails.
ip6tables -w -t mangle -A WEIR -i cust0 -p tcp -m socket --transparent -j MARK --set-xmark 0x4d580000/0xffff0000
ip6tables -w -t mangle -A WEIR -i cust0 -p tcp -m socket --transparent -j ACCEPT
ip6tables -w -t mangle -A WEIR -i cust0 -p ipv6-icmp -m socket --transparent -j MARK --set-xmark 0x4d580000/0xffff0000
ip6tables -w -t mangle -A WEIR -i cust0 -p ipv6-icmp -m socket --transparent -j ACCEPT
ip6tables -w -t mangle -A WEIR -i inet0 -p tcp -m socket --transparent -j MARK --set-xmark 0x4d580000/0xffff0000
ip6tables -w -t mangle -A WEIR -i inet0 -p tcp -m socket --transparent -j ACCEPT
ip6tables -w -t mangle -A WEIR -i inet0 -p ipv6-icmp -m socket --transparent -j MARK --set-xmark 0x4d580000/0xffff0000
ip6tables -w -t mangle -A WEIR -i inet0 -p ipv6-icmp -m socket --transparent -j ACCEPT
ip6tables -w -t mangle -A WEIR -m addrtype --dst-type LOCAL -j RETURN
ip6tables -w -t mangle -A WEIR -i cust0 -s fd01::/32 -p tcp --dport 25 --tcp-flags SYN,ACK,RST SYN -j TPROXY --on-port 2525 --tproxy-mark 0x4d580000/0xffff0000
