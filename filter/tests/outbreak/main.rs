//! Measures the outbreak engine: how much of campaigns it sees, and how little of what programs send.
//!
//! What is sent is made here, by generators that share nothing with the engine. The short run is a test;
//! `make bench-outbreak` makes the long one and prints the figures of docs/outbreak.md.

mod campaigns;
#[cfg(test)]
mod costs;
mod dice;
#[cfg(test)]
mod mail;
mod systems;
mod templates;

use campaigns::{CHANGES, Campaign, Change};
use dice::Dice;
use mail::send;
use systems::{Template, mail};
use templates::TEMPLATES;
use weir_filter::outbreak::{Engine, Exempt, Level, Memory, Rule};

const HOUR: u64 = 3_600_000;
const COPIES: usize = 50;

fn engine() -> Engine<Memory> {
    Engine::new(Memory::new(100_000, Rule::default()), 42, Exempt::default())
}

/// Levels of the copies of one campaign, within half an hour.
fn campaign(
    engine: &Engine<Memory>,
    change: Change,
    customers: u32,
    begin: u64,
    dice: &mut Dice,
) -> Vec<Level> {
    let campaign = Campaign::new(change, customers, dice);
    let pause = HOUR / 2 / COPIES as u64;
    (0..COPIES)
        .map(|number| {
            let (customer, mail) = campaign.copy(number, dice);
            send(engine, customer, &mail, begin + number as u64 * pause).level
        })
        .collect()
}

/// Messages of one template and how many of them had which level.
#[derive(Debug, Default)]
struct Seen {
    messages: u32,
    bulk: u32,
    spam: u32,
}

/// `customers` send a template at one an hour each, at times of their own, in the hours `hours`.
fn steady(
    engine: &Engine<Memory>,
    template: &Template,
    customers: u32,
    hours: std::ops::Range<u64>,
    dice: &mut Dice,
) -> Seen {
    let mut times: Vec<(u64, u32)> = (0..customers)
        .flat_map(|customer| hours.clone().map(move |hour| (hour, customer)))
        .map(|(hour, customer)| (hour * HOUR + u64::from(dice.number()) % HOUR, customer))
        .collect();
    times.sort_unstable();
    let mut seen = Seen::default();
    for (now, customer) in times {
        let level = send(engine, customer, &mail(template, customer, dice), now).level;
        seen.messages += 1;
        seen.bulk += u32::from(level == Level::Bulk);
        seen.spam += u32::from(level == Level::Spam);
    }
    seen
}

/// Of `runs` campaigns, those of which the last copy has at least 50, and 100.
fn recall(engine: &Engine<Memory>, change: Change, customers: u32, runs: u32) -> (u32, u32) {
    let (mut bulk, mut spam) = (0, 0);
    // A day after the engine's first message.
    let begin = 25 * HOUR;
    for run in 0..runs {
        let mut dice = Dice::new(u64::from(run) * 1000 + u64::from(customers));
        let levels = campaign(engine, change, customers, begin + u64::from(run) * HOUR / 4, &mut dice);
        let last = levels[COPIES - 1];
        bulk += u32::from(last >= Level::Bulk);
        spam += u32::from(last == Level::Spam);
    }
    (bulk, spam)
}

#[test]
fn campaigns_are_seen_at_their_fiftieth_copy() {
    for change in CHANGES {
        let (bulk, spam) = recall(&engine(), change, 5, 20);
        assert!(bulk >= 18 && spam >= 18, "{change:?}: {bulk} at 50 or more and {spam} at 100 of 20");
    }
}

#[test]
fn what_programs_send_is_not_an_outbreak() {
    let engine = engine();
    let mut dice = Dice::new(1);
    for template in &TEMPLATES {
        let Seen { messages, bulk, spam } = steady(&engine, template, 100, 1..3, &mut dice);
        assert!(
            spam == 0 && bulk * 100 <= messages,
            "{}: {bulk} bulk, {spam} spam of {messages}",
            template.name
        );
    }
}

#[test]
fn unrelated_messages_are_not_copies_of_each_other() {
    let engine = engine();
    let mut dice = Dice::new(3);
    for number in 0..2000_u64 {
        let text = Campaign::new(Change::Fill, 1, &mut dice);
        let (_, mail) = text.copy(0, &mut dice);
        let finding = send(&engine, (number % 10) as u32, &mail, number * 1000);
        assert!(finding.copies <= 2 && finding.level == Level::None, "{finding:?}");
    }
}

#[test]
#[ignore = "make bench-outbreak: some minutes, and a table"]
fn measure() {
    println!("| change | customers | at least 50 | 100 |\n|---|---|---|---|");
    for change in CHANGES {
        for customers in [3, 5, 10, 20, 50] {
            let (bulk, spam) = recall(&engine(), change, customers, 100);
            println!("| {change:?} | {customers} | {bulk} % | {spam} % |");
        }
    }
    println!("\nspread_customers = 40, on a node that is a day old:");
    let rule = Rule { spread: 40, ..Rule::default() };
    let day_old = Engine::new(Memory::new(100_000, rule), 42, Exempt::default());
    campaign(&day_old, Change::Fill, 1, HOUR, &mut Dice::new(1));
    println!(
        "of 100 campaigns with one copy from each customer (at least 50, 100): {:?}",
        recall(&day_old, Change::Fill, 50, 100)
    );
    println!("a program's new mail: {:?}", steady(&day_old, &TEMPLATES[11], 1000, 60..63, &mut Dice::new(5)));
    let engine = engine();
    let mut all = Seen::default();
    println!("\n| template | messages | 50 | 100 |\n|---|---|---|---|");
    for (number, template) in TEMPLATES.iter().enumerate() {
        let mut dice = Dice::new(number as u64 + 9);
        let seen = steady(&engine, template, 1000, 1..4, &mut dice);
        println!("| {} | {} | {} | {} |", template.name, seen.messages, seen.bulk, seen.spam);
        all.messages += seen.messages;
        all.bulk += seen.bulk;
        all.spam += seen.spam;
    }
    println!("\n{all:?}; {:?}", engine.store().usage());
    costs::print(&engine);
}
