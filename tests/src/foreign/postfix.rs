//! Postfix as a filter node: judges in the session, and whatever it accepts goes to `discard:`.

use std::net::SocketAddr;

use anyhow::Result;

use super::PORT;
use crate::components::{MAIL_LOG, Postfix};
use crate::lab::{Family, Host};

/// Nothing in it can send mail: no smtp, relay, lmtp, local, virtual or pipe.
const MASTER_CF: &str = "\
smtp      inet  n - n - - smtpd
10025     inet  n - n - - smtpd
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
proxymap  unix  - - n - - proxymap
showq     unix  n - n - - showq
error     unix  - - n - - error
retry     unix  - - n - - error
discard   unix  - - n - - discard
anvil     unix  - - n - 1 anvil
postlog   unix-dgram n - n - 1 postlogd
";

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
myhostname = filter.provider.test
smtpd_peername_lookup = no
smtpd_client_port_logging = yes
alias_maps =
alias_database =
# Every message that is accepted goes nowhere.
mydestination =
relay_domains =
default_transport = discard:
relay_transport = discard:
local_transport = discard:
transport_maps =
# No report of anything to anybody.
smtpd_discard_ehlo_keywords = dsn, etrn
notify_classes =
# The agents say for whom they speak, and only customers are relayed: a message of an agent whose XCLIENT is not
# taken is refused.
smtpd_authorized_xclient_hosts = 10.3.0.1, [fd03::1]
mynetworks = 127.0.0.0/8 [::1]/128 10.1.0.0/16 [fd01::]/32
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_recipient_restrictions = check_policy_service inet:127.0.0.1:10031
smtpd_end_of_data_restrictions = check_policy_service inet:127.0.0.1:10031
message_size_limit = 104857600
queue_minfree = 0
";

pub struct PostfixNode<'a> {
    postfix: Postfix<'a>,
    host: &'a Host,
}

impl<'a> PostfixNode<'a> {
    /// Asks the policy service at 127.0.0.1:10031.
    pub fn start(host: &'a Host) -> Result<Self> {
        let postfix = Postfix::configured(host, "nobody".into(), MAIN_CF, MASTER_CF)?;
        Ok(Self { postfix, host })
    }

    pub fn address(family: Family) -> SocketAddr {
        SocketAddr::new(family.filter_node(0), PORT)
    }

    pub fn log(&self) -> String {
        self.host.read(MAIL_LOG)
    }

    /// Recipients in its queue.
    pub fn queued(&self) -> Result<usize> {
        Ok(self.postfix.queue()?.len())
    }
}
