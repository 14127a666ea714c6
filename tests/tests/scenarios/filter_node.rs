//! weir-filter by itself, spoken to as an agent would.

use std::fs;
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use weir_tests::components::{FilterConfig, Spamd, WeirFilter};
use weir_tests::lab::{Family, Lab, NarrowLink};
use weir_tests::probe::{GTUBE, HAM};
use weir_tests::smtp::Client;
use weir_tests::wait::{PATIENCE, wait_until};

/// A proxy speaks for its customers; the reason and the id are in the reply.
#[test]
fn judges_for_proxies() -> Result<()> {
    Lab::run("filter-proxy", NarrowLink::Nowhere, |lab| {
        let spamd = Spamd::start(&lab.filter, Family::V4.filter_node(0))?;
        let filter = WeirFilter::start(&lab.filter, 0, &FilterConfig::node(0).asking(spamd.address()))?;
        for (family, literal) in [(Family::V4, "10.1.0.2"), (Family::V6, "IPV6:fd01::2")] {
            for (message, code) in [(HAM, 250), (GTUBE, 550)] {
                let mut client = connect(lab, family)?;
                assert!(client.greet("gateway.test")?.announces("XCLIENT"), "{}", client.transcript());
                let id = format!("id-{family:?}-{code}");
                say_who(&mut client, literal, &id)?;
                let reply = client
                    .send_message("a@customer.test", &["b@v4.destination.test"], message)?
                    .expect(code)?;
                let line = filter.wait_message(&id)?;
                assert_eq!(line.field("verdict"), if code == 250 { "accept" } else { "reject" });
                assert_eq!(line.field("customer"), family.customer().to_string());
                assert!(code == 250 || reply.text().contains(&id), "{}", reply.text());
            }
        }
        filter.stop()
    })
}

/// Counts outlive the node: all of them if it is stopped, those of more than ten seconds ago if it is killed.
#[test]
fn counts_outlive_the_node() -> Result<()> {
    Lab::run("filter-counts", NarrowLink::Nowhere, |lab| {
        let config = FilterConfig::node(0).limited_to(5);
        let send = |number: u32| -> Result<u16> {
            let mut client = connect(lab, Family::V4)?;
            client.greet("gateway.test")?;
            say_who(&mut client, "10.1.0.2", &format!("id-{number}"))?;
            Ok(client.send_message("a@customer.test", &["b@v4.destination.test"], HAM)?.code)
        };
        let filter = WeirFilter::start(&lab.filter, 0, &config)?;
        for number in 0..2 {
            ensure!(send(number)? == 250, "message {number}");
        }
        filter.stop()?;
        let mut filter = WeirFilter::start(&lab.filter, 0, &config)?;
        for number in 2..4 {
            ensure!(send(number)? == 250, "message {number}");
        }
        // One may be under way now, and have looked at the counts before.
        let savings = || -> Result<u64> {
            WeirFilter::status(&lab.filter)?["counters"]["savings"].as_u64().context("no counter")
        };
        let before = savings()?;
        wait_until("counts to be saved", PATIENCE, || Ok(savings()? >= before + 2))?;
        filter.kill()?;
        drop(filter);
        let filter = WeirFilter::start(&lab.filter, 0, &config)?;
        ensure!(send(4)? == 250, "the fifth");
        ensure!(send(5)? == 451, "the sixth, with five in this minute");
        filter.stop()?;
        let file = lab.filter.path(&config.counters_file);
        let mut damaged = fs::read(&file)?;
        damaged.truncate(5000);
        fs::write(&file, damaged)?;
        let output = WeirFilter::refused(&lab.filter, 0, &config)?;
        ensure!(output.contains("is damaged") && output.contains("remove it"), "{output}");
        Ok(())
    })
}

/// All chunks are in flight before the first answer; cut anywhere, a line's end and SpamAssassin's test string too.
#[test]
fn judges_what_comes_in_chunks() -> Result<()> {
    Lab::run("filter-chunks", NarrowLink::Nowhere, |lab| {
        let spamd = Spamd::start(&lab.filter, Family::V4.filter_node(0))?;
        let filter = WeirFilter::start(&lab.filter, 0, &FilterConfig::node(0).asking(spamd.address()))?;
        let binary = |text: &[u8]| [text, b"\n\r\n.\r\nQUIT\r\n\0\r\xff no end"].concat();
        let unended = |text: &[u8]| text.trim_ascii_end().to_vec();
        for (name, body, code) in [
            ("ham", binary(HAM), 250),
            ("spam", binary(GTUBE), 550),
            ("spam-lf", GTUBE.to_vec(), 550),
            ("spam-unended", unended(GTUBE), 550),
            ("spam-crlf", crlf(&unended(GTUBE)), 550),
        ] {
            for size in [7, body.len()] {
                let id = format!("{name}-{size}");
                let mut client = connect(lab, Family::V4)?;
                let extensions = client.greet("gateway.test")?;
                assert!(extensions.announces("CHUNKING") && extensions.announces("BINARYMIME"));
                say_who(&mut client, "10.1.0.2", &id)?;
                client.command("MAIL FROM:<a@customer.test> BODY=BINARYMIME")?.expect(250)?;
                client.command("RCPT TO:<b@v4.destination.test>")?.expect(250)?;
                let chunks: Vec<&[u8]> = body.chunks(size).collect();
                client.send(&wire(&chunks))?;
                for _ in &chunks {
                    client.expect(250)?;
                }
                let reply = client.expect(code)?;
                assert!(reply.text().contains(&id), "{}", reply.text());
                client.expect(221)?;
                let line = filter.wait_message(&id)?;
                assert_eq!(line.field("size"), body.len().to_string(), "{id}");
            }
        }
        filter.stop()
    })
}

fn crlf(lines: &[u8]) -> Vec<u8> {
    lines.split(|octet| *octet == b'\n').collect::<Vec<_>>().join(&b"\r\n"[..])
}

fn wire(chunks: &[&[u8]]) -> Vec<u8> {
    let mut wire = Vec::new();
    for chunk in chunks {
        wire.extend_from_slice(format!("BDAT {}\r\n", chunk.len()).as_bytes());
        wire.extend_from_slice(chunk);
    }
    wire.extend_from_slice(b"BDAT 0 LAST\r\nQUIT\r\n");
    wire
}

/// Everybody else gets 554 at connect: whoever may use XCLIENT can speak for every customer.
#[test]
fn refuses_everybody_else() -> Result<()> {
    Lab::run("filter-others", NarrowLink::Nowhere, |lab| {
        let _filter = WeirFilter::start(&lab.filter, 0, &FilterConfig::node(0))?;
        for family in Family::BOTH {
            let mut client = Client::connect(&lab.customer, node(family))?;
            client.expect(554)?;
            assert!(client.is_closed()?, "{}", client.transcript());
        }
        Ok(())
    })
}

/// XCLIENT, the customer's EHLO, and the id of the next message.
fn say_who(client: &mut Client, literal: &str, id: &str) -> Result<()> {
    client
        .command(&format!("XCLIENT ADDR={literal} PORT=4711 HELO=mail.customer.test PROTO=ESMTP"))?
        .expect(220)?;
    client.command("EHLO mail.customer.test")?.expect(250)?;
    client.command(&format!("XFORWARD IDENT={id}"))?.expect(250)?;
    Ok(())
}

fn connect(lab: &Lab, family: Family) -> Result<Client> {
    Client::connect(&lab.gateway, node(family))
}

fn node(family: Family) -> SocketAddr {
    (family.filter_node(0), 10025).into()
}
