//! The preset `volume`, with the real scanners: what customers are told, message by message.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use weir_tests::components::{Clamd, FilterConfig, Spamd, WeirFilter, eicar};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::{GTUBE, HAM};
use weir_tests::smtp::Client;

/// A message with a program for Windows, as mail programs write it: by itself under a harmless name, or in an archive.
const WRITE: &str = r"
import io, struct, sys, zipfile
from email.message import EmailMessage
program = b'MZ' + bytes(58) + struct.pack('<I', 128) + bytes(64) + b'PE\0\0' + struct.pack('<H', 0x8664) + bytes(300)
message = EmailMessage()
message['From'], message['To'], message['Subject'] = 'a@customer.test', 'b@v4.destination.test', 'The report'
message['Message-ID'], message['Date'] = '<report@customer.test>', 'Sat, 21 Nov 2026 00:00:00 +0000'
message.set_content('As you asked.')
if sys.argv[1] == 'zip':
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('folder/setup.bin', program)
    message.add_attachment(packed.getvalue(), maintype='application', subtype='zip', filename='files.zip')
else:
    message.add_attachment(program, maintype='application', subtype='pdf', filename='report.pdf')
sys.stdout.buffer.write(bytes(message))
";

fn with_program(form: &str) -> Result<Vec<u8>> {
    let output =
        Command::new("python3").args(["-c", WRITE, form]).stdin(Stdio::null()).output().context("python3")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

/// Behind so much that SpamAssassin does not look at it.
fn padded(size: usize) -> Vec<u8> {
    [HAM, "Padding, and nothing else.\n".repeat(size / 27 + 1).as_bytes()].concat()
}

#[test]
fn spam_is_limited_and_viruses_and_programs_are_rejected() -> Result<()> {
    Lab::run("presets", NarrowLink::Nowhere, |lab| {
        let address = Family::V4.filter_node(0);
        let spamd = Spamd::start(&lab.filter, address)?;
        let clamd = Clamd::start(&lab.filter, address)?;
        let text = format!(
            "[smtp]\nlisten = [\"{address}:10025\"]\nproxies = [\"{}/32\"]\n\
             [limits]\nspam_messages = 2\nbulk_messages = 5\n\
             [spamassassin]\naddress = \"{}\"\nmax_size = 100000\n[clamav]\naddress = \"{}\"\n",
            Family::V4.proxy(),
            spamd.address(),
            clamd.address()
        );
        let filter = WeirFilter::start_as(&lab.filter, 0, &text)?;
        let mut number = 0;
        let mut tell = |message: &[u8]| -> Result<String> {
            number += 1;
            let mut client = Client::connect(&lab.gateway, (address, 10025).into())?;
            client.greet("gateway.test")?;
            client.command("XCLIENT ADDR=10.1.0.2 HELO=mail.customer.test PROTO=ESMTP")?.expect(220)?;
            client.command("EHLO mail.customer.test")?.expect(250)?;
            client.command(&format!("XFORWARD IDENT=id-{number}"))?.expect(250)?;
            let reply = client.send_message("a@customer.test", &["b@v4.destination.test"], message)?;
            Ok(format!("{} {}", reply.code, reply.text()))
        };
        let mut expect = |message: &[u8], beginning: &str| -> Result<()> {
            let told = tell(message)?;
            ensure!(told.starts_with(beginning), "{told:?} instead of {beginning:?}");
            Ok(())
        };
        expect(HAM, "250 ")?;
        let virus = [HAM, &eicar()[..], b"\n"].concat();
        expect(&virus, "554 5.7.1 Rejected by virus filter: Eicar-Test-Signature")?;
        let file = "550 5.7.1 Your message has a file that is not let through: executable (exe) ";
        expect(&with_program("pdf")?, &format!("{file}report.pdf"))?;
        expect(&with_program("zip")?, &format!("{file}files.zip/folder/setup.bin"))?;
        // Two of spam are let through, and no more; what is too large for SpamAssassin is bulk mail, as they are.
        expect(GTUBE, "250 ")?;
        expect(GTUBE, "250 ")?;
        expect(GTUBE, "451 4.7.1 You may only send 2 spam messages in 8 hours, try later (id-7)")?;
        // Three were counted as bulk mail by now.
        expect(&padded(120_000), "250 ")?;
        expect(&padded(120_000), "250 ")?;
        expect(
            &padded(120_000),
            "451 4.7.1 You may only send 5 bulk messages in 8 hours, try later (id-10)",
        )?;
        expect(HAM, "250 ")?;
        let line = filter.wait_message("id-2")?;
        ensure!(line.field("rule") == "virus", "{line:?}");
        filter.stop()
    })
}

/// Its limits hold, and nobody looks at what it says.
#[test]
fn content_that_is_closed_is_shown_to_nobody() -> Result<()> {
    Lab::run("presets-closed", NarrowLink::Nowhere, |lab| {
        let address = Family::V4.filter_node(0);
        let spamd = Spamd::start(&lab.filter, address)?;
        let clamd = Clamd::start(&lab.filter, address)?;
        let mut config = FilterConfig::node(0).asking(spamd.address()).limited_to(4);
        config.sections = format!(
            "[clamav]\naddress = \"{}\"\n[privacy]\nno_content = [\"10.1.0.2/32\"]\n",
            clamd.address()
        );
        let filter = WeirFilter::start(&lab.filter, 0, &config)?;
        let tell = |customer: &str, message: &[u8]| -> Result<u16> {
            let mut client = Client::connect(&lab.gateway, (address, 10025).into())?;
            client.greet("gateway.test")?;
            client.command(&format!("XCLIENT ADDR={customer} HELO=h PROTO=ESMTP"))?.expect(220)?;
            client.command("EHLO h")?.expect(250)?;
            Ok(client.send_message("a@customer.test", &["b@v4.destination.test"], message)?.code)
        };
        let virus = [HAM, &eicar()[..], b"\n"].concat();
        let program = with_program("pdf")?;
        for message in [GTUBE, &virus, &program, &padded(600_000)] {
            ensure!(tell("10.1.0.2", message)? == 250, "{}", filter.output());
        }
        ensure!(tell("10.1.0.2", HAM)? == 451, "beyond its limit");
        for (message, code) in [(GTUBE, 550), (&virus[..], 554), (&program, 550)] {
            ensure!(tell("10.1.0.3", message)? == code, "{}", filter.output());
        }
        let scanners = &WeirFilter::status(&lab.filter)?["scanners"];
        ensure!(scanners["clamav"]["scanned"] == 3, "{scanners:#}");
        filter.stop()
    })
}
