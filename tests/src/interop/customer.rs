//! The customers' servers and programs, none of which uses TLS here: what they say can be read on the wire.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::case::Case;
use super::servers;
use crate::components::Postfix;
use crate::lab::{Family, Host, Process};
use crate::smtp::Client;
use crate::wait::{PATIENCE, wait_until};

const NAME: &str = "mail.customer.test";
const EXIM_PORT: u16 = 2501;
const OPENSMTPD_PORT: u16 = 2502;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Customer {
    Postfix,
    Exim,
    OpenSmtpd,
    Msmtp,
    Nullmailer,
    Curl,
    Swaks,
    Smtplib,
    Nodemailer,
}

impl Customer {
    pub const ALL: [Self; 9] = [
        Self::Postfix,
        Self::Exim,
        Self::OpenSmtpd,
        Self::Msmtp,
        Self::Nullmailer,
        Self::Curl,
        Self::Swaks,
        Self::Smtplib,
        Self::Nodemailer,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Postfix => "Postfix",
            Self::Exim => "Exim",
            Self::OpenSmtpd => "OpenSMTPD",
            Self::Msmtp => "msmtp",
            Self::Nullmailer => "nullmailer",
            Self::Curl => "curl",
            Self::Swaks => "swaks",
            Self::Smtplib => "Python smtplib",
            Self::Nodemailer => "nodemailer",
        }
    }

    pub fn sends_utf8_addresses(self) -> bool {
        matches!(self, Self::Postfix | Self::Exim | Self::Curl | Self::Smtplib | Self::Nodemailer)
    }

    /// Sends nothing to anybody when one recipient is refused.
    pub fn stops_at_a_refusal(self) -> bool {
        matches!(self, Self::Msmtp | Self::Nullmailer)
    }

    /// The port where a server of the customer takes messages.
    fn submission(self) -> Option<u16> {
        match self {
            Self::Postfix => Some(25),
            Self::Exim => Some(EXIM_PORT),
            Self::OpenSmtpd => Some(OPENSMTPD_PORT),
            _ => None,
        }
    }
}

/// All of them, installed on a host; the servers run.
pub struct Customers<'a> {
    host: &'a Host,
    _postfix: Postfix<'a>,
    _servers: [Process; 2],
}

impl<'a> Customers<'a> {
    pub fn start(host: &'a Host) -> Result<Self> {
        let postfix = Postfix::customer(host)?;
        // Its delivery agent starts for the first message, after this.
        host.sh("postconf -e 'smtp_tls_security_level = none'")?;
        let exim = servers::exim(host, &exim_configuration())?;
        let opensmtpd = servers::opensmtpd(host, &opensmtpd_configuration())?;
        host.install("clients")?;
        for port in [EXIM_PORT, OPENSMTPD_PORT] {
            wait_until(&format!("a banner on port {port}"), PATIENCE, || {
                Ok(Client::connect(host, local(port)).and_then(|mut client| client.expect(220)).is_ok())
            })?;
        }
        Ok(Self { host, _postfix: postfix, _servers: [exim, opensmtpd] })
    }

    /// Makes a customer send a message to the destination. Its servers send it some time later, its programs have
    /// sent it when this returns; then it is whether they say that they succeeded.
    pub fn send(&self, customer: Customer, case: Case, family: Family, utf8: bool) -> Result<Option<bool>> {
        let recipients = case.recipients(family, utf8);
        let mail =
            Mail { sender: case.sender(utf8), recipients: &recipients, message: &case.message(), utf8 };
        match customer.submission() {
            Some(port) => self.submit(port, &mail).map(|()| None),
            None => self.run(customer, family.destination(), &mail).map(Some),
        }
    }

    fn submit(&self, port: u16, mail: &Mail<'_>) -> Result<()> {
        let mut client = Client::connect(self.host, local(port))?;
        client.greet("program.customer.test")?;
        let parameters = if mail.utf8 { " SMTPUTF8" } else { "" };
        client.command(&format!("MAIL FROM:<{}> BODY=8BITMIME{parameters}", mail.sender))?.expect(250)?;
        for recipient in mail.recipients {
            client.command(&format!("RCPT TO:<{recipient}>"))?.expect(250)?;
        }
        client.command("DATA")?.expect(354)?;
        client.send(&crate::smtp::stuffed(mail.message))?;
        client.expect(250)?;
        client.command("QUIT")?.expect(221)?;
        Ok(())
    }

    fn run(&self, customer: Customer, to: IpAddr, mail: &Mail<'_>) -> Result<bool> {
        let file = "/tmp/message";
        self.host.write(file, mail.message)?;
        let script = match customer {
            Customer::Msmtp => self.msmtp(to, mail)?,
            Customer::Nullmailer => self.nullmailer(to, mail)?,
            Customer::Curl => {
                // It sends the octets as they are.
                self.host.sh(&format!("sed -i 's/$/\\r/' {file}"))?;
                let recipients = mail.each(|recipient| format!("--mail-rcpt '{recipient}'"));
                format!(
                    "curl -sS 'smtp://{}/{NAME}' --mail-rcpt-allowfails --mail-from '{}' {recipients} -T {file}",
                    SocketAddr::new(to, 25),
                    mail.sender
                )
            }
            Customer::Swaks => {
                let six = if to.is_ipv6() { "-6" } else { "-4" };
                let recipients = mail.recipients.join(",");
                format!(
                    "swaks {six} --server {to} --port 25 --helo {NAME} --from '{}' --to '{recipients}' \
                     --suppress-data --data @{file}",
                    mail.sender
                )
            }
            Customer::Smtplib => self.script("python3", "send.py", SMTPLIB, to, mail)?,
            Customer::Nodemailer => {
                format!(
                    "NODE_PATH=/usr/share/nodejs {}",
                    self.script("node", "send.js", NODEMAILER, to, mail)?
                )
            }
            Customer::Postfix | Customer::Exim | Customer::OpenSmtpd => {
                anyhow::bail!("a server, not a program")
            }
        };
        let mut command = Command::new("sh");
        command.args(["-c", &script]);
        let mut process = self.host.spawn(customer.name(), command)?;
        let status = process.wait_exit(PATIENCE)?;
        // 127: the shell did not find it.
        ensure!(status.code() != Some(127), "{script}:\n{}", process.output());
        Ok(status.success())
    }

    fn msmtp(&self, to: IpAddr, mail: &Mail<'_>) -> Result<String> {
        let settings = "set_from_header off\nset_date_header off\nset_msgid_header off\ntls off\nauth off";
        self.host.write(
            "/etc/msmtprc",
            format!("account default\nhost {to}\nport 25\ndomain {NAME}\n{settings}\n"),
        )?;
        let recipients = mail.each(|recipient| format!("'{recipient}'"));
        Ok(format!("msmtp -C /etc/msmtprc -f '{}' -- {recipients} </tmp/message", mail.sender))
    }

    /// The program that nullmailer-send runs for each message, as it runs it.
    fn nullmailer(&self, to: IpAddr, mail: &Mail<'_>) -> Result<String> {
        let envelope = format!("{}\n{}\n\n", mail.sender, mail.recipients.join("\n"));
        self.host.write("/tmp/nullmailer", [envelope.as_bytes(), mail.message].concat())?;
        self.host.write("/tmp/nullmailer-options", format!("host={to}\nport=25\n"))?;
        Ok(format!("HELOHOST={NAME} /usr/lib/nullmailer/smtp </tmp/nullmailer-options 3</tmp/nullmailer"))
    }

    fn script(&self, program: &str, name: &str, text: &str, to: IpAddr, mail: &Mail<'_>) -> Result<String> {
        let path = format!("/usr/local/bin/{name}");
        self.host.write(&path, text)?;
        let recipients = mail.each(|recipient| format!("'{recipient}'"));
        Ok(format!("{program} {path} {to} {NAME} '{}' {recipients}", mail.sender))
    }

    /// What their servers still have, and what Exim logged.
    pub fn queues(&self) -> Result<String> {
        self.host
            .sh("postqueue -p; exim4 -bp; smtpctl show queue; tail -n 20 /var/log/exim4/*log")
            .context("queues")
    }
}

struct Mail<'a> {
    sender: &'a str,
    recipients: &'a [String],
    message: &'a [u8],
    utf8: bool,
}

impl Mail<'_> {
    fn each(&self, argument: impl Fn(&String) -> String) -> String {
        self.recipients.iter().map(argument).collect::<Vec<_>>().join(" ")
    }
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// Bounces to the own domain are dropped.
fn exim_configuration() -> String {
    let routes = Family::BOTH.map(|family| {
        format!(
            "{:?}:\n  driver = manualroute\n  domains = {}\n  transport = smtp\n  route_list = * \"<+ {}\"\n",
            family,
            family.domain(),
            family.destination()
        )
        .to_lowercase()
    });
    format!(
        "primary_hostname = {NAME}
daemon_smtp_ports = {EXIM_PORT}
local_interfaces = 127.0.0.1
acl_smtp_rcpt = accept
acl_smtp_data = accept
tls_advertise_hosts =
smtputf8_advertise_hosts = *
message_size_limit = 100M
begin routers
own:
  driver = redirect
  domains = customer.test
  data = :blackhole:
{}begin transports
smtp:
  driver = smtp
  hosts_avoid_tls = *
  hosts_override
",
        routes.concat()
    )
}

fn opensmtpd_configuration() -> String {
    let routes = Family::BOTH.map(|family| {
        let (name, to) = (format!("{family:?}").to_lowercase(), SocketAddr::new(family.destination(), 25));
        format!(
            "action {name} relay host smtp+notls://{to} helo {NAME}\nmatch from any for domain \"{}\" action {name}\n",
            family.domain()
        )
    });
    format!(
        "listen on 127.0.0.1 port {OPENSMTPD_PORT} hostname {NAME}\nsmtp max-message-size 100M\n\
         mta limit session-keepalive 0\ntable nobody {{ \"@\" = \"nobody\" }}\naction own mda \"cat >/dev/null\" virtual <nobody>\n\
         match from any for domain \"customer.test\" action own\n{}",
        routes.concat()
    )
}

const SMTPLIB: &str = r#"import smtplib, sys
server, name, sender, *recipients = sys.argv[1:]
# Octets are sent as they are: lines have to end as on the wire.
message = open("/tmp/message", "rb").read().replace(b"\n", b"\r\n")
utf8 = not all(address.isascii() for address in [sender, *recipients])
with smtplib.SMTP(server, 25, local_hostname=name) as smtp:
    smtp.sendmail(sender, recipients, message, ["SMTPUTF8", "BODY=8BITMIME"] if utf8 else [])
"#;

const NODEMAILER: &str = r#"const nodemailer = require("nodemailer");
const [host, name, from, ...to] = process.argv.slice(2);
const transport = nodemailer.createTransport({ host, port: 25, name, ignoreTLS: true });
transport
    .sendMail({ envelope: { from, to }, raw: require("fs").readFileSync("/tmp/message") })
    .catch(() => { process.exitCode = 1; });
"#;
