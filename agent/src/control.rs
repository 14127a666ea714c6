//! What the operator can ask of a running agent, over the control socket.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::error;
use weir_daemon::audit::{Actor, Audit};

use crate::charge::{Charge, NotInCharge};
use crate::config::{Backend, Mode};
use crate::modes::{ModeError, Modes};
use crate::nodes::{DrainError, Pool};
use crate::policy::{Author, Exemption, Listed, Policy, PolicyError, Release, kind_name, refusal_name, time};
use crate::steer::{BootTime, Pair, Refusal, RuleKind, Steering};
use crate::treatment::Switched;
use crate::wanted_tls::WantedTls;

/// How long an action waits until it is written down.
const AUDIT_PATIENCE: Duration = Duration::from_secs(1);

/// A request, as it is on the socket: `{"request": "exempt", "customer": ...}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    Status {},
    /// Lets new connections of the pair go straight for so many seconds.
    Exempt {
        customer: IpAddr,
        destination: IpAddr,
        seconds: u64,
        #[serde(default)]
        reason: String,
    },
    Unexempt {
        customer: IpAddr,
        destination: IpAddr,
    },
    /// Lets new connections of these customers, or to these destinations, go straight for so many seconds.
    ExemptPrefix {
        side: Side,
        prefix: IpNet,
        seconds: u64,
        #[serde(default)]
        reason: String,
    },
    UnexemptPrefix {
        side: Side,
        prefix: IpNet,
    },
    /// Refuses new connections of these customers for so many seconds.
    Block {
        prefix: IpNet,
        seconds: u64,
        #[serde(default)]
        reason: String,
        /// Without an answer to the customer.
        #[serde(default)]
        drop: bool,
    },
    Unblock {
        prefix: IpNet,
    },
    List {},
    /// Gives a filter node no more messages, or some again.
    Drain {
        node: SocketAddr,
        draining: bool,
    },
    /// Treats these customers' messages otherwise than the configuration says, for so many seconds.
    Mode {
        mode: Mode,
        /// `None`: all customers.
        #[serde(default)]
        prefix: Option<IpNet>,
        seconds: u64,
    },
    /// As the configuration says again; without a prefix whatever was switched.
    ConfiguredMode {
        #[serde(default)]
        prefix: Option<IpNet>,
    },
    /// Lets new connections of all customers go straight for so many seconds.
    Release {
        seconds: u64,
    },
    EndRelease {},
}

/// Whose addresses a prefix is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    Customer,
    Destination,
}

impl Side {
    fn exempt(self) -> RuleKind {
        match self {
            Self::Customer => RuleKind::ExemptCustomer,
            Self::Destination => RuleKind::ExemptDestination,
        }
    }
}

impl Request {
    /// As it is sent.
    pub fn to_json(&self) -> Value {
        json!(self)
    }

    /// What it is called in the audit log; questions that change nothing are not in it.
    fn action(&self) -> Option<&'static str> {
        match self {
            Self::Status {} | Self::List {} => None,
            Self::Exempt { .. } | Self::ExemptPrefix { .. } => Some("exempt"),
            Self::Unexempt { .. } | Self::UnexemptPrefix { .. } => Some("unexempt"),
            Self::Block { .. } => Some("block"),
            Self::Unblock { .. } => Some("unblock"),
            Self::Drain { draining: true, .. } => Some("drain"),
            Self::Drain { draining: false, .. } => Some("undrain"),
            Self::Mode { .. } | Self::ConfiguredMode { .. } => Some("mode"),
            Self::Release { .. } => Some("release"),
            Self::EndRelease {} => Some("release --end"),
        }
    }
}

/// Why a request is not fulfilled.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
enum Refused {
    Policy(#[from] PolicyError),
    Drain(#[from] DrainError),
    Mode(#[from] ModeError),
    Charge(#[from] NotInCharge),
}

/// Answers requests.
pub struct Control<S> {
    pub policy: Arc<Policy>,
    pub steering: Arc<Mutex<Box<dyn Steering>>>,
    pub status: S,
    pub(crate) pool: Arc<Pool>,
    pub(crate) modes: Arc<Modes>,
    pub(crate) release: Arc<Release>,
    pub(crate) charge: Arc<Charge>,
    pub(crate) audit: Audit,
}

impl<S: Fn() -> Value> Control<S> {
    /// The answer; an error is what the operator is told. Blocks, for as long as it takes to change the kernel's
    /// mind and to write a file.
    ///
    /// # Errors
    /// If the request is none, or cannot be fulfilled.
    pub fn answer(&self, request: &Value, actor: Actor) -> Result<Value, String> {
        let asked = Request::deserialize(request).map_err(|error| {
            format!(
                "{error} (status, exempt, unexempt, exempt_prefix, unexempt_prefix, block, unblock, list, drain, mode, \
                 configured_mode, release and end_release are the requests)"
            )
        })?;
        if let Some(action) = asked.action()
            && let Err(cause) = self.write_down(actor, action, request)
        {
            error!(cause, uid = actor.uid, %request, "done, and not in the audit log");
        }
        self.perform(asked).map_err(|error| error.to_string())
    }

    /// A disk that is full or hangs must not stand between an operator and the release of his customers' mail.
    fn write_down(&self, actor: Actor, action: &'static str, request: &Value) -> Result<(), String> {
        let (audit, request) = (self.audit.clone(), request.clone());
        let (tell, told) = mpsc::channel();
        thread::spawn(move || tell.send(audit.record(actor, action, &request)));
        told.recv_timeout(AUDIT_PATIENCE).unwrap_or_else(|_| Err("the disk does not answer".to_owned()))
    }

    fn perform(&self, request: Request) -> Result<Value, Refused> {
        let _held = match request {
            Request::Status {} | Request::List {} => None,
            _ => Some(self.charge.change()?),
        };
        match request {
            Request::Status {} => Ok((self.status)()),
            Request::Exempt { customer, destination, seconds, reason } => {
                let (pair, duration) = (pair(customer, destination)?, Duration::from_secs(seconds));
                let exemption = self.policy.exempt(&self.steering, pair, duration, &reason)?;
                Ok(rule(&pair, &exemption, None))
            }
            Request::ExemptPrefix { side, prefix, seconds, reason } => {
                self.add_rule(side.exempt(), prefix, seconds, Refusal::Drop, &reason)
            }
            Request::UnexemptPrefix { side, prefix } => self.remove_rule(side.exempt(), prefix),
            Request::Block { prefix, seconds, reason, drop } => {
                let refusal = if drop { Refusal::Drop } else { Refusal::Reset };
                self.add_rule(RuleKind::Blocked, prefix, seconds, refusal, &reason)
            }
            Request::Unblock { prefix } => self.remove_rule(RuleKind::Blocked, prefix),
            Request::Unexempt { customer, destination } => {
                let pair = pair(customer, destination)?;
                self.policy.unexempt(&self.steering, pair)?;
                Ok(json!({ "customer": pair.customer(), "destination": pair.destination() }))
            }
            Request::Drain { node, draining } => {
                let in_flight = self.pool.drain(node, draining)?;
                Ok(json!({ "node": node, "draining": draining, "in_flight": in_flight }))
            }
            Request::Mode { mode, prefix, seconds } => {
                let switched = self.modes.switch(prefix, mode, Duration::from_secs(seconds))?;
                Ok(switched.to_json())
            }
            Request::ConfiguredMode { prefix } => {
                let ended = self.modes.configured(prefix)?;
                Ok(ended.iter().map(Switched::to_json).collect())
            }
            Request::Release { seconds } => {
                Ok(self.release.begin(&self.steering, Duration::from_secs(seconds))?)
            }
            Request::EndRelease {} => {
                self.release.end(&self.steering)?;
                Ok(json!({}))
            }
            Request::List {} => Ok(self.list()),
        }
    }

    fn list(&self) -> Value {
        let exempt = self.policy.list();
        let pairs: Vec<Pair> = exempt.iter().map(|(pair, _)| *pair).collect();
        let passed = self.policy.passed(&self.steering, &pairs);
        let pairs = exempt.iter().map(|(pair, exemption)| rule(pair, exemption, passed.get(pair).copied()));
        pairs.chain(self.policy.list_rules(&self.steering).iter().map(prefix_rule)).collect()
    }

    fn add_rule(
        &self,
        kind: RuleKind,
        prefix: IpNet,
        seconds: u64,
        refusal: Refusal,
        reason: &str,
    ) -> Result<Value, Refused> {
        let words = (Duration::from_secs(seconds), refusal, reason);
        let rule = self.policy.add_rule(&self.steering, kind, prefix, words)?;
        Ok(prefix_rule(&Listed { kind, prefix, rule, applied: None }))
    }

    fn remove_rule(&self, kind: RuleKind, prefix: IpNet) -> Result<Value, Refused> {
        self.policy.remove_rule(&self.steering, kind, prefix)?;
        Ok(json!({ "kind": kind_name(kind), "prefix": prefix }))
    }
}

fn prefix_rule(listed: &Listed) -> Value {
    let rule = &listed.rule;
    let mut value = json!({
        "kind": kind_name(listed.kind),
        "prefix": listed.prefix,
        "until": time::rfc3339(rule.until),
        "seconds_left": rule.until.since(BootTime::now()).as_secs(),
        "by": Author::Operator,
        "reason": rule.reason,
        "connections": listed.applied,
    });
    if listed.kind == RuleKind::Blocked {
        value["refusal"] = json!(refusal_name(rule.refusal));
    }
    value
}

fn pair(customer: IpAddr, destination: IpAddr) -> Result<Pair, PolicyError> {
    Pair::new(customer, destination).ok_or(PolicyError::Families { customer, destination })
}

fn rule(pair: &Pair, exemption: &Exemption, passed: Option<u64>) -> Value {
    json!({
        "kind": "exempt_pair",
        "customer": pair.customer(),
        "destination": pair.destination(),
        "until": time::rfc3339(exemption.until),
        "seconds_left": exemption.until.since(BootTime::now()).as_secs(),
        "by": exemption.by,
        "reason": exemption.reason,
        "connections": passed,
    })
}

/// The pairs that wanted TLS most, each with what exempts it.
pub fn wanted_tls(wanted: &WantedTls, policy: &Policy, backend: Backend) -> Value {
    let command = |customer: IpAddr, destination: IpAddr| match backend {
        Backend::Ebpf | Backend::Tproxy => format!("weir-agent exempt {customer} {destination}"),
        Backend::External => "none: exempt the pair in the rules of your own".to_owned(),
    };
    let pairs = wanted.top().into_iter().map(|pair| {
        let until = Pair::new(pair.customer, pair.destination).and_then(|pair| policy.exempt_until(&pair));
        json!({
            "customer": pair.customer,
            "destination": pair.destination,
            "sessions": pair.sessions,
            "exempt_until": until.map(time::rfc3339),
            "command": command(pair.customer, pair.destination),
        })
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The requests as other programs may write them, and what they are told of those that are none.
    #[test]
    fn requests() {
        let read = |request: Value| Request::deserialize(&request).map_err(|error| error.to_string());
        assert_eq!(read(json!({"request": "status"})), Ok(Request::Status {}));
        let exempt =
            json!({"request": "exempt", "customer": "10.1.0.2", "destination": "10.2.0.2", "seconds": 60});
        let Ok(Request::Exempt { seconds: 60, reason, .. }) = read(exempt) else { panic!("not read") };
        assert_eq!(reason, "");
        for (request, words) in [
            (json!({"request": "dance"}), "unknown variant `dance`, expected one of `status`, `exempt`"),
            (json!({"request": "list", "all": true}), "unknown field `all`"),
            (json!({"request": "unexempt", "customer": "10.1.0.2"}), "missing field `destination`"),
            (json!({"request": "unexempt", "customer": "me"}), "IP address"),
            (json!({}), "missing field `request`"),
            (json!([1]), "invalid"),
        ] {
            let error = read(request).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn what_is_sent_is_what_is_read() {
        let (customer, destination) = (IpAddr::from([10, 1, 0, 2]), IpAddr::from([10, 2, 0, 2]));
        for request in [
            Request::Status {},
            Request::Exempt { customer, destination, seconds: 1, reason: "x".into() },
            Request::Unexempt { customer, destination },
            Request::ExemptPrefix {
                side: Side::Destination,
                prefix: IpNet::from(destination),
                seconds: 9,
                reason: String::new(),
            },
            Request::UnexemptPrefix { side: Side::Customer, prefix: IpNet::from(customer) },
            Request::Block { prefix: IpNet::from(customer), seconds: 9, reason: "x".into(), drop: true },
            Request::Unblock { prefix: IpNet::from(customer) },
            Request::List {},
            Request::Drain { node: SocketAddr::new(destination, 10025), draining: true },
            Request::Mode { mode: Mode::Bypass, prefix: None, seconds: 60 },
            Request::Release { seconds: 60 },
            Request::EndRelease {},
            Request::ConfiguredMode { prefix: Some(IpNet::from(customer)) },
        ] {
            assert_eq!(Request::deserialize(&request.to_json()).unwrap(), request);
        }
    }
}
