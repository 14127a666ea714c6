//! Postfix, as the customer's server and as the destination.
//!
//! Both keep what arrives for their own domain exactly as it is in their queue, in files that tests read.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::lab::{Family, Host, Process};
use crate::smtp::Client;
use crate::wait::{PATIENCE, wait_for};

pub const CUSTOMER_DOMAIN: &str = "customer.test";
/// A mail domain of the destination to which the customer sends from [`Family::other_customer`], IPv4.
pub const SECOND_DOMAIN: &str = "second.destination.test";
pub const MAIL_LOG: &str = "/var/log/mail.log";

const STORE: &str = "/var/store";

const QUEUES: &str = "active bounce corrupt defer deferred flush hold incoming private saved trace";

/// Written next to the final name and renamed: a test never reads half a message.
const STORE_SCRIPT: &str = r#"#!/bin/sh
cat >"/var/store/.$2" && mv "/var/store/.$2" "/var/store/$1.$2"
"#;

const MASTER_CF: &str = "\
smtp      inet  n - n - - smtpd
pickup    unix  n - n 60 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
verify    unix  - - n - 1 verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n - - proxymap
smtp      unix  - - n - - smtp
relay     unix  - - n - - smtp
second    unix  - - n - - smtp -o smtp_bind_address=10.1.0.3
showq     unix  n - n - - showq
error     unix  - - n - - error
retry     unix  - - n - - error
discard   unix  - - n - - discard
anvil     unix  - - n - 1 anvil
scache    unix  - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
store     unix  - n n - 10 pipe
  user=nobody argv=/usr/local/bin/store ${user} ${queue_id}
";

/// Nothing asks a name server, nothing is limited, everything for the own domain is stored.
const MAIN_CF: &str = "\
compatibility_level = 3.6
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
data_directory = /var/lib/postfix
queue_directory = /var/spool/postfix
shlib_directory = no
meta_directory = /etc/postfix
mail_owner = postfix
setgid_group = postdrop
maillog_file = /var/log/mail.log
inet_interfaces = all
inet_protocols = all
mynetworks = 127.0.0.0/8 [::1]/128
mydestination =
local_header_rewrite_clients =
alias_maps =
alias_database =
local_recipient_maps =
relay_recipient_maps =
relay_transport = store
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
smtp_host_lookup = native
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_tls_loglevel = 1
smtp_tls_loglevel = 1
smtp_tls_security_level = may
message_size_limit = 104857600
mailbox_size_limit = 0
queue_minfree = 0
in_flow_delay = 0
authorized_verp_clients =
";

pub struct Postfix<'a> {
    host: &'a Host,
    domains: String,
    _process: Process,
}

/// A message that a Postfix delivered to its own domain.
#[derive(Debug, Clone)]
pub struct Stored {
    /// As in the queue: lines end in LF, Postfix's own `Received` on top.
    pub content: Vec<u8>,
}

impl Stored {
    /// The message without the header field that the storing Postfix itself put on top.
    pub fn as_received(&self) -> &[u8] {
        let mut rest = self.content.as_slice();
        if rest.starts_with(b"Received:") {
            loop {
                rest = rest.iter().position(|byte| *byte == b'\n').map_or(&[], |end| &rest[end + 1..]);
                if !rest.starts_with(b"\t") && !rest.starts_with(b" ") {
                    break;
                }
            }
        }
        rest
    }

    /// The header field that the storing Postfix put on top: who delivered, by which protocol.
    pub fn trace(&self) -> String {
        let length = self.content.len() - self.as_received().len();
        String::from_utf8_lossy(&self.content[..length]).split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Whether the message came from this address, as Postfix saw the connection.
    pub fn came_from(&self, peer: IpAddr) -> bool {
        let literal = match peer {
            IpAddr::V4(peer) => format!("[{peer}]"),
            IpAddr::V6(peer) => format!("[IPv6:{peer}]"),
        };
        self.trace().contains(&literal)
    }

    pub fn came_by_tls(&self) -> bool {
        self.trace().contains("TLS")
    }
}

/// A message in a Postfix's queue.
#[derive(Debug, Clone)]
pub struct Queued {
    pub recipient: String,
    /// Why it is not delivered yet; empty before the first try.
    pub reason: String,
}

impl<'a> Postfix<'a> {
    /// The customer's server. Mail for [`Family::domain`] goes to the destination over that family, mail for
    /// [`SECOND_DOMAIN`] over IPv4 from the customer's other address.
    pub fn customer(host: &'a Host) -> Result<Self> {
        Self::customer_with(host, "")
    }

    /// As `customer`, with further lines in main.cf.
    pub fn customer_with(host: &'a Host, lines: &str) -> Result<Self> {
        let route = |family: Family| format!("{{{} = smtp:[{}]:25}}", family.domain(), family.destination());
        let [v4, v6] = Family::BOTH.map(route);
        let second = format!("{{{SECOND_DOMAIN} = second:[{}]:25}}", Family::V4.destination());
        let main = format!(
            "transport_maps = inline:{{{v4}, {v6}, {second}}}\nmyhostname = mail.{CUSTOMER_DOMAIN}\n{lines}"
        );
        Self::start(host, &[CUSTOMER_DOMAIN], &main)
    }

    /// The destination: takes everything for its domains, offers STARTTLS.
    pub fn destination(host: &'a Host) -> Result<Self> {
        Self::destination_with(host, "")
    }

    /// As `destination`, with further lines in main.cf.
    pub fn destination_with(host: &'a Host, lines: &str) -> Result<Self> {
        host.sh("mkdir -p /etc/ssl/weir && cd /etc/ssl/weir && openssl req -x509 -newkey ec \
             -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=mx.destination.test \
             -keyout key.pem -out certificate.pem")?;
        let main = "myhostname = mx.destination.test\nsmtpd_tls_security_level = may\nsmtpd_tls_received_header = yes\n\
                    smtpd_tls_cert_file = /etc/ssl/weir/certificate.pem\nsmtpd_tls_key_file = /etc/ssl/weir/key.pem\n";
        let [v4, v6] = Family::BOTH.map(Family::domain);
        Self::start(host, &[v4, v6, SECOND_DOMAIN], &format!("{main}{lines}"))
    }

    fn start(host: &'a Host, domains: &[&str], main: &str) -> Result<Self> {
        let domains = domains.join(" ");
        let main = format!("{MAIN_CF}relay_domains = {domains}\n{main}");
        Self::configured(host, domains, &main, MASTER_CF)
    }

    /// A Postfix with these files. It must listen on 127.0.0.1:25 as well.
    pub fn configured(host: &'a Host, domains: String, main: &str, master: &str) -> Result<Self> {
        host.install("postfix")?;
        host.write("/etc/postfix/main.cf", main)?;
        host.write("/etc/postfix/master.cf", master)?;
        host.write("/usr/local/bin/store", STORE_SCRIPT)?;
        // What the package's maintainer script does on a real machine, and `postfix start`, which needs 250 programs for it.
        host.sh(&format!(
            "grep -q ^postfix: /etc/passwd || {{
                 echo 'postfix:x:5001:5001::/var/spool/postfix:/usr/sbin/nologin' >>/etc/passwd
                 echo 'postfix:x:5001:' >>/etc/group
                 echo 'postdrop:x:5002:' >>/etc/group
             }}
             chmod 755 /usr/local/bin/store
             cd /usr/sbin; for each in postqueue postdrop; do cp --remove-destination $(readlink $each) $each; done
             chgrp postdrop postqueue postdrop && chmod 2755 postqueue postdrop
             mkdir -p {STORE} /var/lib/postfix /var/spool/postfix
             chown nobody {STORE}; chown postfix /var/lib/postfix
             cd /var/spool/postfix; mkdir -p pid {QUEUES} public maildrop
             chown postfix {QUEUES}; chmod 700 {QUEUES}
             chown postfix:postdrop public maildrop; chmod 710 public; chmod 730 maildrop
             cp /usr/share/postfix/dynamicmaps.cf /etc/postfix/
             # What was written within the last two seconds may be half written, and every program of Postfix waits that long.
             touch -d '1 hour ago' /etc/postfix/main.cf"
        ))?;
        // It makes a session of its own, which the leader of a group cannot; and closes every descriptor that there could be.
        let mut command = Command::new("prlimit");
        command.args(["--nofile=4096", "setsid", "--wait"]);
        command.args(["/usr/lib/postfix/sbin/master", "-c", "/etc/postfix", "-s"]);
        let mut process = host.spawn("postfix", command)?;
        wait_for("Postfix's banner", PATIENCE, || {
            ensure!(
                process.exited()?.is_none(),
                "Postfix ended:\n{}\n{}",
                process.output(),
                host.read(MAIL_LOG)
            );
            let own: SocketAddr = ([127, 0, 0, 1], 25).into();
            Ok(Client::connect(host, own).and_then(|mut client| client.expect(220)).ok())
        })?;
        Ok(Self { host, domains, _process: process })
    }

    /// Hands a message to this Postfix, as its own user's mail program would.
    pub fn submit(&self, sender: &str, recipients: &[&str], message: &[u8]) -> Result<()> {
        let mut client = Client::connect(self.host, ([127, 0, 0, 1], 25).into())?;
        client.expect(220)?;
        client.command("EHLO program.customer.test")?.expect(250)?;
        client.send_message(sender, recipients, message)?.expect(250)?;
        client.command("QUIT")?.expect(221)?;
        Ok(())
    }

    /// The message stored for a user of the own domain, once it is there.
    pub fn wait_stored(&self, user: &str) -> Result<Stored> {
        wait_for(&format!("a message for {user} at {}", self.domains), PATIENCE, || {
            Ok(self.stored()?.remove(user).and_then(|mut all| all.pop()))
        })
        .with_context(|| format!("queue: {:?}", self.queue().unwrap_or_default()))
    }

    /// All stored messages by user, as far as they are complete.
    pub fn stored(&self) -> Result<BTreeMap<String, Vec<Stored>>> {
        let mut all: BTreeMap<String, Vec<Stored>> = BTreeMap::new();
        for entry in fs::read_dir(self.host.path(STORE))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some((user, _)) = name.rsplit_once('.').filter(|(user, _)| !user.is_empty()) else {
                continue;
            };
            all.entry(user.to_owned()).or_default().push(Stored { content: fs::read(entry.path())? });
        }
        Ok(all)
    }

    /// Users for whom something is stored: cheaper than the messages themselves.
    pub fn stored_users(&self) -> Result<Vec<String>> {
        let names = fs::read_dir(self.host.path(STORE))?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<Result<Vec<_>>>()?;
        let user = |name: &std::ffi::OsString| Some(name.to_string_lossy().rsplit_once('.')?.0.to_owned());
        Ok(names.iter().filter_map(user).filter(|user| !user.is_empty()).collect())
    }

    /// Removes what is stored.
    pub fn empty_store(&self) -> Result<()> {
        for entry in fs::read_dir(self.host.path(STORE))? {
            fs::remove_file(entry?.path())?;
        }
        Ok(())
    }

    /// Messages waiting in the queue, one entry a recipient.
    pub fn queue(&self) -> Result<Vec<Queued>> {
        let listing = self.host.sh("postqueue -j")?;
        let mut queued = Vec::new();
        for line in listing.lines().filter(|line| line.starts_with('{')) {
            let message: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            for recipient in message["recipients"].as_array().into_iter().flatten() {
                queued.push(Queued {
                    recipient: recipient["address"].as_str().unwrap_or_default().to_owned(),
                    reason: recipient["delay_reason"].as_str().unwrap_or_default().to_owned(),
                });
            }
        }
        Ok(queued)
    }

    /// Waits until a recipient's message is in the queue with a reason for its delay.
    pub fn wait_deferred(&self, recipient: &str) -> Result<Queued> {
        wait_for(&format!("{recipient} in the queue, deferred"), PATIENCE, || {
            Ok(self
                .queue()?
                .into_iter()
                .find(|queued| queued.recipient == recipient && !queued.reason.is_empty()))
        })
        .with_context(|| format!("mail log:\n{}", self.log()))
    }

    /// Tries again at once what is in the queue.
    pub fn flush(&self) -> Result<()> {
        self.host.sh("postqueue -f").map(|_| ())
    }

    pub fn log(&self) -> String {
        self.host.read(MAIL_LOG)
    }
}
