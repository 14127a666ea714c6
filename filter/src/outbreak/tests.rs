use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::{Engine, Exempt, Finding, Level, Memory, Rule, Sighting, Signature, Text, Who};
use crate::content::{Content, Limits, Watch};
use crate::rate::Moment;

const TEXT: &str = "the quick brown fox jumps over the lazy dog while seven wizards quietly boil magic potions for the queen";

fn content(extra: &str) -> Content {
    let message = format!("Subject: hello\r\n{extra}\r\n{TEXT}\r\n");
    Content::read(&Bytes::from(message), Limits::default(), &Watch::new(Duration::from_secs(60)))
}

fn attached(octets: usize) -> Content {
    let file = "z".repeat(octets);
    content(&format!("Content-Type: application/pdf; name=a.pdf\r\n\r\n{file}"))
}

fn engine(exempt: Exempt) -> Engine<Memory> {
    Engine::new(Memory::new(1000, Rule::default()), 9, exempt)
}

async fn ask(engine: &Engine<Memory>, content: &Content, who: Who<'_>) -> Finding {
    engine.count(engine.signature(content), content, who, Moment(1000)).await.unwrap()
}

/// A hundred copies through five customers.
async fn burst(
    engine: &Engine<Memory>,
    content: &Content,
    sender: &str,
    to: impl Fn(u8) -> String,
) -> Finding {
    let mut last = Finding::default();
    for number in 0..100 {
        let customer = format!("c{}", number % 5);
        let recipient = to(number);
        let who = Who {
            customer: Some(&customer),
            address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, number % 5)),
            sender,
            recipients: &[&recipient],
        };
        last = ask(engine, content, who).await;
    }
    last
}

fn everywhere(number: u8) -> String {
    format!("u{number}@d{}.test", number % 10)
}

#[tokio::test]
async fn a_burst_is_seen_in_its_text_and_in_its_attachments() {
    let engine = engine(Exempt::default());
    let finding = burst(&engine, &content(""), "a@b.test", everywhere).await;
    assert_eq!(
        (finding.level, finding.attachment, finding.copies, finding.customers),
        (Level::Spam, Level::None, 100, 5)
    );
    assert_eq!(finding.level.number(), 100);
    let finding = burst(&engine, &attached(600), "a@b.test", everywhere).await;
    assert_eq!(finding.attachment, Level::Spam);
    assert_eq!(burst(&engine, &attached(100), "a@b.test", everywhere).await.attachment, Level::None);
}

#[tokio::test]
async fn told_again_and_to_oneself_is_no_copy() {
    let engine = engine(Exempt::default());
    let finding =
        burst(&engine, &content(""), "a@b.test", |number| format!("root@d{}.test", number % 5)).await;
    assert_eq!((finding.level, finding.copies), (Level::None, 5), "each customer has one recipient");
    let finding = burst(&engine, &content(""), "a@b.test", |number| format!("u{number}@mail.B.test")).await;
    assert_eq!((finding.exempt, finding.copies), (Some("own-domain"), 0));
}

#[tokio::test]
async fn exemptions_are_kept() {
    let print = engine(Exempt::default()).signature(&content("")).text.unwrap().fingerprint;
    let cases = [
        (Exempt { customers: (0..5).map(|at| format!("c{at}")).collect(), ..Exempt::default() }, "customer"),
        (Exempt { sender_domains: vec!["B.test".into()], ..Exempt::default() }, "sender-domain"),
        (Exempt { fingerprints: vec![print], ..Exempt::default() }, "fingerprint"),
    ];
    for (exempt, why) in cases {
        let finding = burst(&engine(exempt), &content(""), "a@news.b.test", everywhere).await;
        assert_eq!((finding.level, finding.exempt), (Level::None, Some(why)));
    }
    let report = content("Content-Type: multipart/report; boundary=x\r\n\r\n--x\r\n");
    assert_eq!(burst(&engine(Exempt::default()), &report, "", everywhere).await.exempt, Some("notice"));
    assert_eq!(burst(&engine(Exempt::default()), &content(""), "", everywhere).await.level, Level::Spam);
}

fn sighting(number: u32, attachments: Vec<u64>) -> Sighting {
    let first = number.wrapping_mul(1000);
    let keys = std::array::from_fn(|at| first.wrapping_add(u32::try_from(at).unwrap()));
    let text = Text { keys, fingerprint: super::Fingerprint(0) };
    let signature = Signature { text: Some(text), attachments };
    Sighting { signature, customer: 1, source: 1, recipients: vec![(2, 3)] }
}

#[test]
fn memory_is_bounded_and_keeps_what_is_worth_most() {
    let memory = Memory::new(100, Rule::default());
    for number in 0..50_u64 {
        let sender = Sighting {
            customer: number << 32,
            recipients: vec![(number << 32, 0)],
            ..sighting(0, Vec::new())
        };
        memory.count(&sender, Moment(number));
    }
    for number in 1..5000 {
        memory.count(&sighting(number, vec![number.into()]), Moment(u64::from(number) * 10));
    }
    assert_eq!(memory.usage().messages, 100);
    assert!(memory.usage().evicted > 9000);
    let known = memory.count(&sighting(0, Vec::new()), Moment(60_000));
    assert_eq!(known.copies, 50, "what had copies is still there");
}

#[test]
fn a_customers_past_is_forgotten() {
    let memory = Memory::new(100, Rule::default());
    for number in 0..30_u64 {
        let sender =
            Sighting { customer: 7 << 32, recipients: vec![(number << 32, 0)], ..sighting(0, Vec::new()) };
        memory.count(&sender, Moment(number));
    }
    memory.forget(7 << 32);
    assert_eq!(memory.count(&sighting(0, Vec::new()), Moment(100)).copies, 1);
}

#[test]
fn copies_leave_after_an_hour() {
    let memory = Memory::new(100, Rule::default());
    for number in 0..300_u64 {
        let sender = Sighting { recipients: vec![(number << 32, 0)], ..sighting(0, Vec::new()) };
        let copies = memory.count(&sender, Moment(number * 1000)).copies;
        assert_eq!(u64::from(copies), (number + 1).min(256));
    }
    assert_eq!(memory.count(&sighting(0, Vec::new()), Moment(5 * 3_600_000)).copies, 1);
}

proptest! {
    #[test]
    fn any_sequence_of_sightings_is_counted(
        sent in proptest::collection::vec((0_u32..8, 0_u64..4, 0_u64..20, 0_u64..100_000_000, 0_u64..3), 1..200),
    ) {
        let memory = Memory::new(6, Rule::default());
        for (text, customer, recipient, now, file) in sent {
            let sighting = Sighting {
                customer: customer << 32,
                source: customer << 32,
                recipients: vec![(recipient << 32, recipient << 33)],
                ..sighting(text, vec![file])
            };
            let counted = memory.count(&sighting, Moment(now));
            prop_assert!((1..=80).contains(&counted.copies) && counted.customers <= 4);
            prop_assert!(memory.usage().messages <= 6);
        }
    }
}
