#!/bin/sh
# The destination: Postfix, which takes mail for destination.test, offers STARTTLS, and keeps messages in /var/mail/user.
#
#   mx.sh    as root on Debian 12
set -eu

export DEBIAN_FRONTEND=noninteractive
echo "postfix postfix/main_mailer_type select Internet Site" | debconf-set-selections
echo "postfix postfix/mailname string mx.destination.test" | debconf-set-selections
apt-get update -qq
apt-get install -y -qq --no-install-recommends postfix ssl-cert

id user >/dev/null 2>&1 || useradd --create-home user
postconf -e "myhostname = mx.destination.test" \
    "mydestination = destination.test" \
    "mynetworks = 127.0.0.0/8" \
    "smtpd_tls_security_level = may" \
    "smtpd_tls_cert_file = /etc/ssl/certs/ssl-cert-snakeoil.pem" \
    "smtpd_tls_key_file = /etc/ssl/private/ssl-cert-snakeoil.key" \
    "inet_interfaces = all"
systemctl enable --quiet postfix
systemctl restart postfix
echo "mx: takes mail for user@destination.test at 10.2.0.2"
