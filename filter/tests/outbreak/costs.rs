//! What a message costs: time and memory.

use weir_filter::outbreak::{Engine, Fingerprint, Memory, Rule, Sighting, Signature, Text};
use weir_filter::rate::Moment;

use crate::campaigns::{Campaign, Change};
use crate::dice::Dice;
use crate::mail::read;

/// Prints them.
pub fn print(engine: &Engine<Memory>) {
    const MESSAGES: u32 = 50_000;
    let mut dice = Dice::new(7);
    let (_, mail) = Campaign::new(Change::PadAmong, 1, &mut dice).copy(0, &mut dice);
    let content = read(&mail);
    let begun = std::time::Instant::now();
    for _ in 0..2000 {
        engine.signature(&content);
    }
    println!("signature of {} octets of text: {:?}", mail.body.len(), begun.elapsed() / 2000);
    let before = resident();
    let begun = std::time::Instant::now();
    let memory = Memory::new(100_000, Rule::default());
    for number in 0..MESSAGES {
        let keys = std::array::from_fn(|_| dice.number());
        let text = Text { keys, fingerprint: Fingerprint(0) };
        let signature = Signature { text: Some(text), attachments: Vec::new() };
        let recipients = vec![(u64::from(number) << 32, 0)];
        let now = Moment(u64::from(number));
        memory.count(&Sighting { signature, customer: 1 << 32, source: 1 << 32, recipients }, now);
    }
    println!(
        "counted: {:?} each; {} bytes for each different message",
        begun.elapsed() / MESSAGES,
        (resident() - before) / u64::from(MESSAGES)
    );
}

/// Bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
