//! Templates in the manner of what hosting customers' programs send, in words of our own.

use crate::systems::{Template, To};

const fn admin(name: &'static str, subject: &'static str, body: &'static str) -> Template {
    Template { name, to: To::Administrator, subject, body }
}

const fn user(name: &'static str, subject: &'static str, body: &'static str) -> Template {
    Template { name, to: To::User, subject, body }
}

pub const TEMPLATES: [Template; 42] = [
    admin(
        "cron backup",
        "Cron <root@{host}> /usr/local/bin/backup",
        "Backup of {host} begins\ncopied {n} files, {n} MB, skipped {n}\nold archives removed: {n}\nBackup of {host} has ended without errors after {n} seconds\n",
    ),
    admin(
        "cron error",
        "Cron <www@{host}> php /srv/www/cron.php",
        "Warning: the connection to the database was slow ({n} ms) in /srv/www/lib/db.php on line {n}\nWarning: the cache could not be written in /srv/www/lib/cache.php on line {n}\nProcessed {n} jobs\n",
    ),
    admin(
        "cron certificates",
        "Cron <root@{host}> renew certificates",
        "Looking for certificates that are about to expire\n{site}: {n} days left, nothing to do\nwww.{site}: {n} days left, nothing to do\nNo certificate was renewed. The web server was not reloaded.\n",
    ),
    admin(
        "logwatch",
        "Log summary of {host}",
        "Summary of the logs of {host} for yesterday\n\nLogins\n  {n} accepted by key, {n} by password\n  {n} refused for unknown users from {ip}\n  {n} refused for unknown users from {ip}\n\nMail\n  {n} received, {n} delivered, {n} deferred\n\nDisk\n  /dev/vda1 {n} GB, {n} used\n\nEnd of the summary\n",
    ),
    admin(
        "logwatch short",
        "Daily report for {host}",
        "Report of the last 24 hours on {host}\npackages installed: {n}\npackages upgraded: {n}\nkernel messages of note: {n}\nfailed units: none\nThis report was made by the log watcher on {host}\n",
    ),
    admin(
        "ban",
        "[ban] ssh: {ip} was banned on {host}",
        "Hello,\n\nthe address {ip} has just been banned on {host} after {n} failed attempts against ssh.\n\nLines of the log with this address:\n sshd: failed password for root from {ip} port {n}\n sshd: failed password for admin from {ip} port {n}\n\nRegards,\nthe ban service\n",
    ),
    admin(
        "ban web",
        "[ban] web login: {ip}",
        "Hello,\n\nthe jail for the web login has banned {ip} on {host} for {n} minutes.\nIt asked {n} times for pages that are not there.\nIt will be released by itself.\n\nRegards,\nthe ban service\n",
    ),
    admin(
        "ban start",
        "[ban] jail started on {host}",
        "Hello,\n\nthe jail for mail has been started successfully on {host}.\n{n} addresses of the last run were restored.\n\nRegards,\nthe ban service\n",
    ),
    admin(
        "blog updated",
        "[{site}] Your site has been updated",
        "Howdy! Your site at {link} has been updated automatically to version {n}.{n}.\n\nNo further action is needed on your part. If you notice anything odd or need help, the forums of the project are there for you.\n\nThe following plugins were brought up to date as well: {words}\n\nThe team\n",
    ),
    admin(
        "blog comment",
        "[{site}] Please moderate: {words}",
        "A new comment on the post \"{words}\" is waiting for your approval\n{link}\n\nAuthor: {name} (IP address: {ip})\nComment: {words} {words}\n\nApprove it: {link}\nTrash it: {link}\nMark it as spam: {link}\n",
    ),
    admin(
        "blog new user",
        "[{site}] New user registration",
        "New user registration on your site {site}:\n\nUsername: {words}\n\nEmail: {name}@{ip}.example\n\nYou can see all users of your site on its dashboard under {link}\n",
    ),
    user(
        "blog password",
        "[{site}] Password reset",
        "Someone has asked for a password reset for the following account:\n\nSite name: {site}\n\nUsername: {name}\n\nIf this was a mistake, ignore this email and nothing will happen.\n\nTo reset your password, visit the following address:\n\n{link}\n\nThis request came from the IP address {ip}.\n",
    ),
    user(
        "blog welcome",
        "[{site}] Login details",
        "Username: {name}\n\nTo set your password, visit the following address:\n\n{link}\n\nAfter that you can log in here: {link}\n\nWelcome to {site}, we are glad to have you.\n",
    ),
    user(
        "shop order",
        "Your {site} order has been received",
        "<html><body><h1>Thank you for your order</h1><p>Hi {name},</p><p>Just to let you know: we have received your order #{n}, and it is now being processed:</p><table><tr><td>{words}</td><td>{n}</td><td>{n}.00</td></tr><tr><td>Subtotal</td><td>{n}.00</td></tr><tr><td>Shipping</td><td>flat rate</td></tr><tr><td>Total</td><td>{n}.00</td></tr></table><p>Billing address: {name}</p><p>Thanks for using {site}!</p></body></html>",
    ),
    user(
        "shop shipped",
        "Your order from {site} is on its way",
        "<html><body><p>Hi {name},</p><p>good news: your order #{n} was handed to the parcel service today and should reach you in {n} days.</p><p>Follow the parcel here: <a href=\"{link}\">track</a></p><p>Contents: {words}</p><p>If something is wrong with your delivery, simply answer this message.</p></body></html>",
    ),
    admin(
        "shop new order",
        "[{site}]: new order #{n}",
        "You have received the following order from {name}:\n\nOrder #{n}\n{words} x {n} = {n}.00\n\nSubtotal: {n}.00\nPayment method: bank transfer\nTotal: {n}.00\n\nCongratulations on the sale.\n",
    ),
    user(
        "shop password",
        "Password reset request for {site}",
        "<html><body><p>Hi {name},</p><p>Someone has requested a new password for the following account on {site}:</p><p>Username: {name}</p><p>If you did not make this request, just ignore this email. If you would like to proceed:</p><p><a href=\"{link}\">Click here to reset your password</a></p><p>Thanks for reading.</p></body></html>",
    ),
    user(
        "billing invoice",
        "Customer invoice",
        "Dear {name},\n\nThis is a notice that an invoice has been generated on this day.\n\nYour payment method is: credit card\n\nInvoice #{n}\nAmount due: {n}.00 EUR\nDue date: in {n} days\n\nInvoice items\n{words} {n}.00\n\nYou can log in to the client area to view and pay the invoice at {link}\n",
    ),
    user(
        "billing reminder",
        "Invoice payment reminder",
        "Dear {name},\n\nThis is a reminder that your invoice no. {n} is due in {n} days.\n\nBalance due: {n}.00 EUR\n\nYou can pay it in the client area: {link}\n\nThank you for being our customer.\n",
    ),
    user(
        "billing paid",
        "Invoice payment confirmation",
        "Dear {name},\n\nThis is a payment receipt for invoice {n} sent a few days ago.\n\n{words} {n}.00\n\nTotal paid: {n}.00 EUR\nTransaction #: {code}\nRemaining balance: 0.00\nStatus: paid\n\nYou may review your invoice history at any time in the client area.\nNote: this email serves as an official receipt for this payment.\n",
    ),
    user(
        "billing ticket",
        "[Ticket ID: {code}] {words}",
        "{name},\n\nThank you for contacting our support team. A support ticket has now been opened for your request. You will be notified by email when a response is made. The details of your ticket are shown below.\n\nSubject: {words}\nPriority: medium\nStatus: open\n\nYou can view the ticket at any time at {link}\n",
    ),
    user(
        "billing service",
        "Your new service is ready",
        "Dear {name},\n\nyour order has been set up. Please keep this email, it has all that you need.\n\nDomain: {site}\nServer name: {host}\nServer address: {ip}\n\nAs soon as the name servers are known everywhere, your page can be seen under {link}\n\nThank you for choosing us.\n",
    ),
    admin(
        "panel quota",
        "[{host}] Disk usage warning for account {words}",
        "The account {words} on {host} is using {n} MB of {n} MB and is about to reach its disk quota.\n\nIf it reaches the quota, it will not be able to receive mail or upload files.\n\nThe system generated this notice for the contact address of the account.\n",
    ),
    admin(
        "panel login",
        "[{host}] New login to the control panel",
        "Somebody has logged in to the control panel of {host} from an address that was not seen before.\n\nUser: {words}\nAddress: {ip}\nTime: {n}\n\nIf this was you, you need to do nothing. If not, change the password at once and look at the access log.\n",
    ),
    admin(
        "panel update",
        "[{host}] Control panel update completed",
        "The nightly update of the control panel on {host} has completed.\n\nPrevious version: {n}.{n}\nCurrent version: {n}.{n}\n\nServices that were restarted: web, mail, name server\nNo configuration file was changed.\n",
    ),
    admin(
        "panel certificate",
        "[{host}] Certificate for {site} was installed",
        "The automatic certificate service has installed a new certificate on {host}.\n\nDomains on the certificate: {site}, www.{site}, mail.{site}\nIt will be renewed by itself {n} days before it ends.\n",
    ),
    admin(
        "panel backup",
        "[{host}] Backup failed for {n} accounts",
        "The backup of {host} has finished with warnings.\n\nAccounts in the backup: {n}\nAccounts left out: {n}\n\nThe reason for each account is in the log of the backup service on the server, in the file {n}.log.\n",
    ),
    admin(
        "monitor down",
        "** PROBLEM: {host}/http is CRITICAL **",
        "Notification type: problem\n\nService: http\nHost: {host}\nAddress: {ip}\nState: critical\n\nAdditional info:\n\nconnection to {ip} port {n} timed out after {n} seconds\n",
    ),
    admin(
        "monitor up",
        "** RECOVERY: {host}/http is OK **",
        "Notification type: recovery\n\nService: http\nHost: {host}\nAddress: {ip}\nState: ok\n\nAdditional info:\n\nhttp ok: {n} bytes in {n} seconds response time\n",
    ),
    admin(
        "monitor load",
        "** PROBLEM: {host}/load is WARNING **",
        "Notification type: problem\n\nService: current load\nHost: {host}\nAddress: {ip}\nState: warning\n\nAdditional info:\n\nwarning: load average {n} {n} {n} is above what was set for this machine\n",
    ),
    admin(
        "raid",
        "Degraded array event on {host}",
        "This is an automatically generated mail message of the array monitor running on {host}\n\nA degraded array event has been detected on device /dev/md{n}.\n\nIt could be related to component device /dev/sd{n}.\n\nFaithfully yours, the monitor\n",
    ),
    admin(
        "packages",
        "{n} packages can be upgraded on {host}",
        "The following packages on {host} can be upgraded:\n\n{words}\n\nOf these {n} are security updates. They have been downloaded but were not installed.\n\nTo install them, run the upgrade as root.\n",
    ),
    user(
        "site password",
        "Password reset on {site}",
        "You are receiving this email because you requested a password reset for your user account at {site}.\n\nPlease go to the following page and choose a new password:\n\n{link}\n\nYour username, in case you have forgotten: {name}\n\nThanks for using our site!\n",
    ),
    user(
        "app password",
        "Reset your password",
        "<html><body><h1>Hello!</h1><p>You are receiving this email because we received a password reset request for your account.</p><p><a href=\"{link}\">Reset password</a></p><p>This link will expire in {n} minutes.</p><p>If you did not request a password reset, no further action is required.</p><p>Regards, {site}</p></body></html>",
    ),
    user(
        "verify",
        "Verify your email address",
        "<html><body><h1>Hello {name}!</h1><p>Please click the button below to verify your email address.</p><p><a href=\"{link}\">Verify email address</a></p><p>If you did not create an account, no further action is required.</p><p>If the button does not work, copy this address into your browser: {link}</p></body></html>",
    ),
    user(
        "code",
        "Your code is {code}",
        "Your one-time code is {code}. It is valid for {n} minutes. Do not give it to anybody, not even to us.\n",
    ),
    user(
        "code long",
        "{code} is your verification code",
        "<html><body><p>Hi {name},</p><p>to finish signing in to {site}, please enter this code:</p><h2>{code}</h2><p>The code works once and expires in {n} minutes. If you did not try to sign in, somebody may know your password; please change it.</p></body></html>",
    ),
    user(
        "sign-in",
        "New sign-in to your account",
        "Hi {name},\n\nwe noticed a new sign-in to your account on {site}.\n\nWhen: {n}\nWhere from: {ip}\nWith: a browser on a computer\n\nIf this was you, there is nothing to do. If not, please secure your account: {link}\n",
    ),
    user(
        "forum reply",
        "Topic reply notification - {words}",
        "Hello {name},\n\nYou are receiving this notification because you are watching the topic \"{words}\" at {site}. This topic has received a reply since your last visit. No more notifications will be sent until you visit the topic.\n\n{link}\n\nIf you no longer wish to watch this topic, use the link at its bottom.\n",
    ),
    user(
        "form",
        "Message from the contact form of {site}",
        "From: {name}\nSubject: {words}\n\nMessage:\n{words} {words} {words}\n\n-- \nThis message was sent by the contact form on {site}\n",
    ),
    user(
        "newsletter confirm",
        "Please confirm your subscription",
        "Hello,\n\nsomebody, hopefully you, has entered this address for the newsletter of {site}.\n\nTo confirm, please open this link: {link}\n\nIf you do not confirm, you will hear nothing more from us, and the address is deleted after {n} days.\n",
    ),
    user(
        "booking",
        "Your booking {code} is confirmed",
        "Dear {name},\n\nthank you for your booking at {site}. We are happy to confirm it.\n\nBooking number: {code}\nArrival: {n}\nNights: {n}\nPersons: {n}\n\nYou can change or cancel it without charge until {n} days before you arrive: {link}\n\nWe look forward to welcoming you.\n",
    ),
];
