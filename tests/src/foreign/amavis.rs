//! amavisd-new with `SpamAssassin` as a filter node: refuses in the session, as the gateways that have it before their
//! queue, and re-injects what it accepts into a sink.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Result, ensure};

use super::PORT;
use crate::lab::{Family, Host, Process};
use crate::smtp::Client;
use crate::wait::{PATIENCE, wait_until};

/// Where accepted mail is re-injected, on 127.0.0.1.
pub const SINK_PORT: u16 = 10026;

const CONFIG: &str = r#"use strict;
$MYHOME = '/var/lib/amavis';
$TEMPBASE = "$MYHOME/tmp";
$lock_file = "$MYHOME/amavisd.lock";
$pid_file = "$MYHOME/amavisd.pid";
$daemon_user = 'amavis';
$daemon_group = 'amavis';
$mydomain = 'provider.test';
$myhostname = 'filter.provider.test';
$max_servers = 2;
$enable_db = 0;
$enable_zmq = 0;
$DO_SYSLOG = 0;
$log_level = 1;

# Only agents are listened to: whoever may connect may say who the customer is.
$inet_socket_port = 10025;
$inet_socket_bind = ['10.3.0.11', '[fd03::11]'];
@inet_acl = ('10.3.0.1', '[fd03::1]');

# Whatever is accepted, and whatever amavis itself would like to say, goes into the sink.
$forward_method = 'smtp:[127.0.0.1]:10026';
$notify_method = $forward_method;

# The thresholds of seed configurations: refused in the session, never bounced or kept.
$sa_tag_level_deflt = undef;
$sa_tag2_level_deflt = 5.0;
$sa_kill_level_deflt = 6.0;
$sa_local_tests_only = 1;
$final_virus_destiny = D_REJECT;
$final_banned_destiny = D_REJECT;
$final_spam_destiny = D_REJECT;
$final_bad_header_destiny = D_PASS;
$QUARANTINEDIR = undef;
$virus_quarantine_to = undef;
$spam_quarantine_to = undef;
$banned_quarantine_to = undef;
$bad_header_quarantine_to = undef;
$virus_admin = undef;
$spam_admin = undef;
$warnbadhsender = 0;

@bypass_virus_checks_maps = (1);
@bypass_banned_checks_maps = (1);
@decoders = ();
$enable_dkim_verification = 0;

# By the address that the agent said: customers, and one with a policy of its own.
@mynetworks = qw(10.1.0.0/16 [fd01::]/32);
@client_ipaddr_policy = ([qw(10.1.0.3 [fd01::3])] => 'STRICT', \@mynetworks => 'MYNETS');
$policy_bank{'MYNETS'} = {originating => 1};
$policy_bank{'STRICT'} = {spam_kill_level_maps => [-100]};
1;
"#;

pub struct Amavis {
    process: Process,
}

impl Amavis {
    /// It answers the agent's host and nobody else.
    pub fn start(host: &Host, agent: &Host) -> Result<Self> {
        host.install("amavis")?;
        host.write("/etc/amavis/weir.conf", CONFIG)?;
        host.write("/etc/spamassassin/local.cf", "use_bayes 0\nreport_safe 0\nlock_method flock\n")?;
        // What the package's maintainer script does on a real machine.
        host.sh("grep -q ^amavis: /etc/passwd || {
                 echo 'amavis:x:5031:5031::/var/lib/amavis:/usr/sbin/nologin' >>/etc/passwd
                 echo 'amavis:x:5031:' >>/etc/group
             }
             mkdir -p /var/lib/amavis/tmp && chown -R amavis:amavis /var/lib/amavis && chmod 750 /var/lib/amavis
             chown root:root /etc/amavis/weir.conf")?;
        let mut command = Command::new("amavisd");
        command.args(["-c", "/etc/amavis/weir.conf", "foreground"]);
        let mut process = host.spawn("amavis", command)?;
        wait_until("amavisd's banner", PATIENCE, || {
            ensure!(process.exited()?.is_none(), "amavisd ended:\n{}", process.output());
            let address = Self::address(Family::V4);
            Ok(Client::connect(agent, address).and_then(|mut client| client.expect(220)).is_ok())
        })?;
        Ok(Self { process })
    }

    pub fn address(family: Family) -> SocketAddr {
        SocketAddr::new(family.filter_node(0), PORT)
    }

    pub fn log(&self) -> String {
        self.process.output()
    }
}
