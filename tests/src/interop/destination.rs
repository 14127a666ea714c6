//! The destinations' servers. Each takes everything for the destination's domains, over IPv4 and IPv6, refuses the user
//! `refused`, and offers all it has, STARTTLS too.

use std::process::Command;

use anyhow::{Result, ensure};

use super::servers;
use crate::components::Postfix;
use crate::lab::{Family, Host, Process};
use crate::smtp::Client;
use crate::wait::{PATIENCE, wait_until};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    Postfix,
    Exim,
    OpenSmtpd,
    Aiosmtpd,
}

/// A running one.
#[derive(Default)]
pub struct Server<'a> {
    _postfix: Option<Postfix<'a>>,
    _process: Option<Process>,
}

impl From<Process> for Server<'_> {
    fn from(process: Process) -> Self {
        Self { _process: Some(process), ..Self::default() }
    }
}

impl Destination {
    pub const ALL: [Self; 4] = [Self::Postfix, Self::Exim, Self::OpenSmtpd, Self::Aiosmtpd];

    pub fn name(self) -> &'static str {
        match self {
            Self::Postfix => "Postfix",
            Self::Exim => "Exim",
            Self::OpenSmtpd => "OpenSMTPD",
            Self::Aiosmtpd => "aiosmtpd",
        }
    }

    pub fn takes_utf8_addresses(self) -> bool {
        self != Self::OpenSmtpd
    }

    pub fn start(self, host: &Host) -> Result<Server<'_>> {
        let server = match self {
            Self::Postfix => postfix(host)?,
            Self::Exim => {
                certificate(host)?;
                Server::from(servers::exim(host, &exim_configuration())?)
            }
            Self::OpenSmtpd => {
                certificate(host)?;
                host.sh("mkdir -p /var/store && chmod 777 /var/store")?;
                Server::from(servers::opensmtpd(host, &opensmtpd_configuration())?)
            }
            Self::Aiosmtpd => {
                certificate(host)?;
                host.install("aiosmtpd")?;
                host.write("/usr/local/bin/destination.py", AIOSMTPD)?;
                let mut command = Command::new("python3");
                command.arg("/usr/local/bin/destination.py");
                Server::from(host.spawn("aiosmtpd", command)?)
            }
        };
        wait_until(&format!("{} to refuse and to take", self.name()), PATIENCE, || {
            Ok(Family::BOTH.iter().all(|family| answers(host, *family).unwrap_or(false)))
        })?;
        Ok(server)
    }
}

fn answers(host: &Host, family: Family) -> Result<bool> {
    let mut client = Client::connect(host, (family.destination(), 25).into())?;
    let extensions = client.greet("probe.destination.test")?;
    ensure!(extensions.announces("STARTTLS"), "no STARTTLS:\n{}", client.transcript());
    client.command("MAIL FROM:<probe@customer.test>")?.expect(250)?;
    let refused = client.command(&format!("RCPT TO:<refused@{}>", family.domain()))?.code;
    let taken = client.command(&format!("RCPT TO:<user@{}>", family.domain()))?.code;
    client.command("QUIT")?;
    Ok(refused == 550 && taken == 250)
}

/// As [`Postfix::destination`] has one.
fn certificate(host: &Host) -> Result<()> {
    host.sh("mkdir -p /etc/ssl/weir && cd /etc/ssl/weir && openssl req -x509 -newkey ec \
         -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=mx.destination.test \
         -keyout key.pem -out certificate.pem && chmod 600 key.pem")
        .map(|_| ())
}

fn postfix(host: &Host) -> Result<Server<'_>> {
    let postfix = Postfix::destination(host)?;
    let [v4, v6] =
        Family::BOTH.map(|family| format!("{{refused@{} = 550 5.1.1 no such user}}", family.domain()));
    host.sh(&format!(
        "postconf -e 'smtpd_recipient_restrictions = check_recipient_access inline:{{{v4}, {v6}}}' && postfix reload"
    ))?;
    Ok(Server { _postfix: Some(postfix), ..Server::default() })
}

fn exim_configuration() -> String {
    let [v4, v6] = Family::BOTH.map(Family::domain);
    format!(
        "primary_hostname = mx.destination.test
domainlist own = {v4} : {v6}
daemon_smtp_ports = 25
local_interfaces = <; 0.0.0.0 ; ::0
acl_smtp_rcpt = recipient
acl_smtp_data = accept
tls_advertise_hosts = *
tls_certificate = /etc/ssl/weir/certificate.pem
tls_privatekey = /etc/ssl/weir/key.pem
smtputf8_advertise_hosts = *
dsn_advertise_hosts = *
message_size_limit = 100M
begin acl
recipient:
  deny local_parts = refused
       message = no such user
  accept domains = +own
  deny message = relay not permitted
begin routers
all:
  driver = accept
  transport = store
begin transports
store:
  driver = appendfile
  directory = /var/store
  create_directory
  user = mail
  maildir_format
"
    )
}

fn opensmtpd_configuration() -> String {
    let [v4, v6] = Family::BOTH.map(Family::domain);
    let listen = Family::BOTH.map(|family| {
        format!(
            "listen on {} port 25 tls pki destination hostname mx.destination.test\n",
            family.destination()
        )
    });
    format!(
        "pki destination cert \"/etc/ssl/weir/certificate.pem\"
pki destination key \"/etc/ssl/weir/key.pem\"
smtp max-message-size 100M
table refused {{ \"refused@{v4}\", \"refused@{v6}\" }}
table everybody {{ \"@\" = \"nobody\" }}
{}action store maildir \"/var/store\" virtual <everybody>
match from any for rcpt-to <refused> reject
match from any for domain {{ \"{v4}\", \"{v6}\" }} action store
",
        listen.concat()
    )
}

const AIOSMTPD: &str = r#"import asyncio, ssl
from aiosmtpd.smtp import SMTP

class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("refused@"):
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        return "250 Message accepted for delivery"

async def main():
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain("/etc/ssl/weir/certificate.pem", "/etc/ssl/weir/key.pem")
    def protocol():
        return SMTP(Handler(), hostname="mx.destination.test", enable_SMTPUTF8=True, tls_context=tls,
                    data_size_limit=100 << 20)
    server = await asyncio.get_running_loop().create_server(protocol, ["0.0.0.0", "::"], 25)
    await server.serve_forever()

asyncio.run(main())
"#;
