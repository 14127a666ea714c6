//! What a firewall would do with a packet, as far as it can be told from its rules: nft's own (JSON), and those of
//! iptables, which are brought into the same form.

use std::collections::HashMap;

use serde_json::Value;

/// Chains that call each other are followed so far.
const MAX_DEPTH: usize = 16;

/// A packet at some place on its way.
#[derive(Debug, Clone)]
pub struct Packet {
    pub hook: &'static str,
    pub v6: bool,
    pub interface_in: Option<String>,
    pub interface_out: Option<String>,
    pub source: std::net::IpAddr,
    pub destination: std::net::IpAddr,
    /// `tcp`, `icmpv6`.
    pub protocol: &'static str,
    /// TCP ports, where there are some.
    pub ports: Option<(u16, u16)>,
    pub mark: u32,
    /// `new`, `established`.
    pub state: &'static str,
    pub icmp_type: &'static str,
}

/// What becomes of it in one base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Accepted,
    Dropped,
    /// A statement that sends it elsewhere: `tproxy`, `redirect`, `dnat`, `masquerade`, `snat`.
    Taken(&'static str),
}

/// Why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub fate: Fate,
    /// A match that is not understood stood before it: the packet may have had another fate.
    pub sure: bool,
    pub at: Place,
}

/// Where in the rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    pub family: String,
    pub table: String,
    pub chain: String,
    /// None: the chain's policy.
    pub handle: Option<u64>,
    /// The rule as iptables-save writes it, where it is one of iptables'.
    pub iptables: Option<String>,
}

/// A rule set.
#[derive(Debug, Default)]
pub struct Rules {
    chains: Vec<Chain>,
    sets: HashMap<(String, String, String), Vec<Value>>,
}

#[derive(Debug)]
pub(super) struct Chain {
    pub(super) place: Place,
    /// Hook and policy of a base chain.
    pub(super) base: Option<(String, String)>,
    pub(super) rules: Vec<Rule>,
}

#[derive(Debug)]
pub(super) struct Rule {
    pub(super) handle: Option<u64>,
    pub(super) iptables: Option<String>,
    pub(super) expressions: Vec<Value>,
}

/// Whether a match holds; `None`: not understood.
type Holds = Option<bool>;

enum Step {
    Next,
    Return,
    End(Fate, Place),
}

impl Rules {
    /// Of `nft -j list ruleset`.
    pub fn from_nft(objects: &[Value]) -> Self {
        let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let mut rules = Self::default();
        for object in objects {
            if let Some(chain) = object.get("chain") {
                let place = Place {
                    family: text(chain, "family"),
                    table: text(chain, "table"),
                    chain: text(chain, "name"),
                    ..Place::default()
                };
                let base = chain["hook"].as_str().map(|hook| (hook.to_owned(), text(chain, "policy")));
                rules.chains.push(Chain { place, base, rules: Vec::new() });
            } else if let Some(set) = object.get("set").or(object.get("map")) {
                let key = (text(set, "family"), text(set, "table"), text(set, "name"));
                rules.sets.insert(key, set["elem"].as_array().cloned().unwrap_or_default());
            } else if let Some(rule) = object.get("rule") {
                let (family, table, name) = (text(rule, "family"), text(rule, "table"), text(rule, "chain"));
                let expressions = rule["expr"].as_array().cloned().unwrap_or_default();
                let rule = Rule { handle: rule["handle"].as_u64(), iptables: None, expressions };
                if let Some(chain) = rules.chain(&family, &table, &name) {
                    rules.chains[chain].rules.push(rule);
                }
            }
        }
        rules
    }

    /// Tables with rules of iptables', which nft does not show in full, are left out; whether there were some.
    pub fn without_foreign_words(&mut self) -> bool {
        let is_foreign = |rule: &Rule| rule.expressions.iter().any(|one| one.get("xt").is_some());
        let tables: Vec<(String, String)> = self
            .chains
            .iter()
            .filter(|chain| chain.rules.iter().any(is_foreign))
            .map(|chain| (chain.place.family.clone(), chain.place.table.clone()))
            .collect();
        let is_in = |place: &Place| {
            tables.iter().any(|(family, table)| *family == place.family && *table == place.table)
        };
        self.chains.retain(|chain| !is_in(&chain.place));
        !tables.is_empty()
    }

    pub(super) fn push(&mut self, chain: Chain) {
        self.chains.push(chain);
    }

    pub(super) fn chain(&self, family: &str, table: &str, name: &str) -> Option<usize> {
        self.chains.iter().position(|chain| {
            chain.place.family == family && chain.place.table == table && chain.place.chain == name
        })
    }

    pub(super) fn chain_mut(&mut self, index: usize) -> Option<&mut Chain> {
        self.chains.get_mut(index)
    }

    /// What each base chain of the packet's hook does with it, but those of the tables `ours`.
    pub fn outcomes(&self, packet: &Packet, ours: &[&str]) -> Vec<Outcome> {
        let concerned = self.chains.iter().filter(|chain| {
            let family = chain.place.family.as_str();
            let fits = family == "inet" || family == if packet.v6 { "ip6" } else { "ip" };
            let is_ours = family == "inet" && ours.contains(&chain.place.table.as_str());
            fits && !is_ours && chain.base.as_ref().is_some_and(|(hook, _)| hook == packet.hook)
        });
        concerned.map(|chain| self.outcome(chain, packet)).collect()
    }

    fn outcome(&self, chain: &Chain, packet: &Packet) -> Outcome {
        let mut sure = true;
        match self.walk(chain, packet, &mut sure, 0) {
            Step::End(fate, at) => Outcome { fate, sure, at },
            Step::Next | Step::Return => {
                let dropped = chain.base.as_ref().is_some_and(|(_, policy)| policy == "drop");
                let fate = if dropped { Fate::Dropped } else { Fate::Accepted };
                Outcome { fate, sure, at: chain.place.clone() }
            }
        }
    }

    fn walk(&self, chain: &Chain, packet: &Packet, sure: &mut bool, depth: usize) -> Step {
        if depth > MAX_DEPTH {
            *sure = false;
            return Step::Next;
        }
        for rule in &chain.rules {
            match self.apply(chain, rule, packet, sure, depth) {
                Step::Next => {}
                step => return step,
            }
        }
        Step::Next
    }

    fn apply(&self, chain: &Chain, rule: &Rule, packet: &Packet, sure: &mut bool, depth: usize) -> Step {
        let end = |fate| {
            let (handle, iptables) = (rule.handle, rule.iptables.clone());
            Step::End(fate, Place { handle, iptables, ..chain.place.clone() })
        };
        for expression in &rule.expressions {
            let Some((name, argument)) = expression.as_object().and_then(|object| object.iter().next())
            else {
                continue;
            };
            let step = match name.as_str() {
                "match" => match self.holds(chain, argument, packet) {
                    Some(true) => continue,
                    Some(false) => return Step::Next,
                    // It may have ended here, or not: what comes after is not certain.
                    None => {
                        *sure &= !decides(rule);
                        return Step::Next;
                    }
                },
                // How often is not the question.
                "counter" | "log" | "mangle" | "limit" | "notrack" | "comment" => continue,
                "vmap" => self
                    .map(chain, argument, packet, sure)
                    .map_or(Step::Next, |verdict| self.verdict(chain, &verdict, packet, sure, depth, &end)),
                "tproxy" => end(Fate::Taken("tproxy")),
                "redirect" => end(Fate::Taken("redirect")),
                "dnat" => end(Fate::Taken("dnat")),
                "snat" => end(Fate::Taken("snat")),
                "masquerade" => end(Fate::Taken("masquerade")),
                "reject" => end(Fate::Dropped),
                _ => self.verdict(chain, expression, packet, sure, depth, &end),
            };
            match step {
                Step::Next => {}
                step => return step,
            }
        }
        Step::Next
    }

    fn verdict(
        &self,
        chain: &Chain,
        verdict: &Value,
        packet: &Packet,
        sure: &mut bool,
        depth: usize,
        end: &dyn Fn(Fate) -> Step,
    ) -> Step {
        let called = |key: &str| {
            let name = verdict[key]["target"].as_str()?;
            self.chains.get(self.chain(&chain.place.family, &chain.place.table, name)?)
        };
        if verdict.get("accept").is_some() {
            end(Fate::Accepted)
        } else if verdict.get("drop").is_some() {
            end(Fate::Dropped)
        } else if verdict.get("return").is_some() {
            Step::Return
        } else if let Some(target) = called("jump") {
            match self.walk(target, packet, sure, depth + 1) {
                Step::Return => Step::Next,
                step => step,
            }
        } else if let Some(target) = called("goto") {
            match self.walk(target, packet, sure, depth + 1) {
                Step::Next => Step::Return,
                step => step,
            }
        } else {
            Step::Next
        }
    }

    /// The verdict that a map has for the packet.
    fn map(&self, chain: &Chain, map: &Value, packet: &Packet, sure: &mut bool) -> Option<Value> {
        let elements = match &map["data"] {
            Value::String(name) => self.set(chain, name)?.clone(),
            data => data["set"].as_array()?.clone(),
        };
        let key = packet.field(&map["key"]);
        let Some(key) = key else {
            *sure = false;
            return None;
        };
        let fits = |element: &&Value| self.contains(chain, &element[0], &key) == Some(true);
        elements.iter().find(fits).map(|element| element[1].clone())
    }

    fn set(&self, chain: &Chain, name: &str) -> Option<&Vec<Value>> {
        let (family, table) = (chain.place.family.clone(), chain.place.table.clone());
        self.sets.get(&(family, table, name.trim_start_matches('@').to_owned()))
    }

    fn holds(&self, chain: &Chain, test: &Value, packet: &Packet) -> Holds {
        let field = packet.field(&test["left"])?;
        let found = self.contains(chain, &test["right"], &field)?;
        match test["op"].as_str()? {
            "==" | "in" => Some(found),
            "!=" => Some(!found),
            _ => None,
        }
    }

    /// Whether a field has one of these values.
    fn contains(&self, chain: &Chain, right: &Value, field: &Field) -> Holds {
        let any = |values: &[Value]| {
            let all: Vec<Holds> = values.iter().map(|value| self.contains(chain, value, field)).collect();
            match all.contains(&Some(true)) {
                true => Some(true),
                false if all.contains(&None) => None,
                false => Some(false),
            }
        };
        if let Some(values) = right.as_array() {
            return any(values);
        }
        if let Some(values) = right["set"].as_array() {
            return any(values);
        }
        if let Some(name) = right.as_str().filter(|name| name.starts_with('@')) {
            return any(self.set(chain, name)?);
        }
        // An element with a timeout, a comment or a counter.
        if let Some(value) = right.get("elem").and_then(|elem| elem.get("val")) {
            return self.contains(chain, value, field);
        }
        field.is(right)
    }
}

/// Whether a rule can end a packet's way through a chain.
fn decides(rule: &Rule) -> bool {
    let idle = ["match", "counter", "log", "mangle", "limit", "notrack", "comment"];
    rule.expressions
        .iter()
        .filter_map(|expression| expression.as_object()?.keys().next())
        .any(|name| !idle.contains(&name.as_str()))
}

/// A value of the packet.
#[derive(Debug, Clone)]
enum Field {
    Number(u64),
    Word(String),
    Address(std::net::IpAddr),
    /// Of a packet of another kind: nothing fits.
    Absent,
}

impl Packet {
    fn field(&self, left: &Value) -> Option<Field> {
        let number = |port: Option<u16>| Some(port.map_or(Field::Absent, |port| Field::Number(port.into())));
        let word = |word: Option<&str>| Some(word.map_or(Field::Absent, |word| Field::Word(word.to_owned())));
        if let Some(masked) = left["&"].as_array() {
            return match (self.field(masked.first()?)?, masked.get(1)?) {
                (Field::Number(value), mask) => Some(Field::Number(value & mask.as_u64()?)),
                // Of the flags only SYN is set in what opens a connection.
                (Field::Word(flags), mask) if flags == "syn" && has_word(mask, "syn") => {
                    Some(Field::Word(flags))
                }
                _ => None,
            };
        }
        if let Some(key) = left["meta"]["key"].as_str() {
            return match key {
                "iif" | "iifname" => word(self.interface_in.as_deref()),
                "oif" | "oifname" => word(self.interface_out.as_deref()),
                "mark" => Some(Field::Number(self.mark.into())),
                "l4proto" => word(Some(self.protocol)),
                "nfproto" => word(Some(if self.v6 { "ipv6" } else { "ipv4" })),
                "protocol" => word(Some(if self.v6 { "ip6" } else { "ip" })),
                _ => None,
            };
        }
        if left["ct"]["key"] == "state" {
            return word(Some(self.state));
        }
        let payload = &left["payload"];
        let (protocol, field) = (payload["protocol"].as_str()?, payload["field"].as_str()?);
        match (protocol, field) {
            ("tcp" | "udp" | "icmp" | "icmpv6", _) if protocol_name(protocol) != self.protocol => {
                Some(Field::Absent)
            }
            ("tcp" | "th", "sport") => number(self.ports.map(|(source, _)| source)),
            ("tcp" | "th", "dport") => number(self.ports.map(|(_, destination)| destination)),
            ("tcp", "flags") if self.state == "new" => word(Some("syn")),
            ("icmpv6", "type") => word(Some(self.icmp_type)),
            ("ip", _) if self.v6 => Some(Field::Absent),
            ("ip6", _) if !self.v6 => Some(Field::Absent),
            ("ip" | "ip6", "saddr") => Some(Field::Address(self.source)),
            ("ip" | "ip6", "daddr") => Some(Field::Address(self.destination)),
            ("ip", "protocol") | ("ip6", "nexthdr") => word(Some(self.protocol)),
            _ => None,
        }
    }
}

impl Field {
    /// Whether the field has this value; what cannot be compared is not understood.
    fn is(&self, right: &Value) -> Holds {
        match self {
            Self::Absent => Some(false),
            Self::Number(value) => number_is(*value, right),
            Self::Word(word) => {
                let right = protocol_name(right.as_str()?);
                Some(match right.strip_suffix('*') {
                    Some(beginning) => word.starts_with(beginning),
                    None => word == right,
                })
            }
            Self::Address(address) => address_is(*address, right),
        }
    }
}

fn number_is(value: u64, right: &Value) -> Holds {
    if let Some([first, last]) = right["range"].as_array().map(Vec::as_slice) {
        return Some((first.as_u64()?..=last.as_u64()?).contains(&value));
    }
    if let Some(prefix) = right.get("prefix") {
        // A mark by its upper bits.
        let length =
            u32::try_from(prefix["len"].as_u64()?).ok().filter(|length| (1..=32).contains(length))?;
        return Some(value >> (32 - length) == prefix["addr"].as_u64()? >> (32 - length));
    }
    let right = match right.as_str() {
        Some("smtp") => 25,
        _ => right.as_u64()?,
    };
    Some(value == right)
}

fn address_is(address: std::net::IpAddr, right: &Value) -> Holds {
    let parse = |value: &Value| value.as_str()?.parse::<std::net::IpAddr>().ok();
    if let Some(prefix) = right.get("prefix") {
        let length = u8::try_from(prefix["len"].as_u64()?).ok()?;
        return Some(ipnet::IpNet::new(parse(&prefix["addr"])?, length).ok()?.contains(&address));
    }
    if let Some([first, last]) = right["range"].as_array().map(Vec::as_slice) {
        return Some((parse(first)?..=parse(last)?).contains(&address));
    }
    Some(parse(right)? == address)
}

/// nft has two names for it.
fn protocol_name(name: &str) -> &str {
    if name == "ipv6-icmp" { "icmpv6" } else { name }
}

fn has_word(value: &Value, word: &str) -> bool {
    match value {
        Value::String(one) => one == word,
        Value::Array(several) => several.iter().any(|one| has_word(one, word)),
        Value::Object(object) => object.values().any(|one| has_word(one, word)),
        _ => false,
    }
}
