//! Exim and OpenSMTPD in a host, as whatever their configuration makes of them.

use std::process::Command;

use anyhow::Result;

use crate::lab::{Host, Process};

/// What both the customer's and the destination's Exim need. Nothing asks a name server.
const EXIM: &str = "\
log_file_path = /var/log/exim4/%slog
exim_user = Debian-exim
exim_group = Debian-exim
never_users =
host_lookup =
rfc1413_query_timeout = 0s
keep_environment =
deliver_drop_privilege = false
";

pub fn exim(host: &Host, configuration: &str) -> Result<Process> {
    host.install("exim")?;
    host.write("/etc/exim4/exim4.conf", format!("{EXIM}{configuration}"))?;
    // What the package's maintainer script does on a real machine.
    host.sh("grep -q ^Debian-exim: /etc/passwd || {
             echo 'Debian-exim:x:5011:5011::/var/spool/exim4:/usr/sbin/nologin' >>/etc/passwd
             echo 'Debian-exim:x:5011:' >>/etc/group
         }
         mkdir -p /var/log/exim4 /run/exim4 /var/spool/exim4/db /var/store
         chown -R Debian-exim:Debian-exim /var/log/exim4 /run/exim4 /var/spool/exim4
         chown root:Debian-exim /etc/exim4/exim4.conf && chmod 640 /etc/exim4/exim4.conf
         chmod 4755 /usr/sbin/exim4 && chmod 777 /var/store")?;
    let mut command = Command::new("exim4");
    command.args(["-bdf", "-q1m"]);
    host.spawn("exim", command)
}

pub fn opensmtpd(host: &Host, configuration: &str) -> Result<Process> {
    host.install("opensmtpd")?;
    host.write("/etc/smtpd.conf", configuration)?;
    // What the package's maintainer script does on a real machine.
    host.sh(
        "grep -q ^opensmtpd: /etc/passwd || {
             echo 'opensmtpd:x:5021:5021::/var/lib/opensmtpd/empty:/usr/sbin/nologin' >>/etc/passwd
             echo 'opensmtpq:x:5022:5022::/var/lib/opensmtpd/empty:/usr/sbin/nologin' >>/etc/passwd
             printf 'opensmtpd:x:5021:\\nopensmtpq:x:5022:\\n' >>/etc/group
         }
         mkdir -p /var/lib/opensmtpd/empty /var/spool/smtpd && chmod 711 /var/lib/opensmtpd/empty /var/spool/smtpd
         chgrp opensmtpq /usr/sbin/smtpctl && chmod 2555 /usr/sbin/smtpctl",
    )?;
    let mut command = Command::new("smtpd");
    command.args(["-d", "-f", "/etc/smtpd.conf"]);
    host.spawn("opensmtpd", command)
}
