//! The parts of a message, as scripts see them.

use super::Answer;
use super::recorded::{self, with_cause};
use crate::content::{Part, Trouble};
use crate::facts::Facts;
use crate::files::{Class, Files};

/// Parts that a script is told of.
const MAX_PARTS: usize = 100;

/// Characters of a name and of a content type.
const MAX_NAME: usize = 255;

/// `parts`, and whether those are all there are.
pub(super) async fn of(facts: &Facts<'_>) -> Answer {
    let Some(content) = facts.content().await.cloned() else { return unseen(recorded::unseen(facts)) };
    // Only what each part is itself: what is within archives is `scan("filetype")`.
    let none = Files::default();
    let files = facts.files_to(0).await.unwrap_or(&none);
    let parts = content.parts().iter().take(MAX_PARTS).map(|part| told(part, files));
    let parts = Answer::List(parts.collect());
    let more = (content.parts().len() > MAX_PARTS).then_some(Trouble::TooManyParts);
    let trouble = content.troubles().first().map(|found| found.trouble).or(more);
    with_cause(vec![("parts", parts)], trouble.map(Trouble::name))
}

/// Nobody looked, or may.
pub(super) fn unseen(cause: &str) -> Answer {
    with_cause(vec![("parts", Answer::List(Vec::new()))], Some(cause))
}

fn told(part: &Part, files: &Files) -> Answer {
    let own = || files.found().iter().filter(|found| found.part == part.path).map(|found| found.class);
    let class = own().find(|class| *class != Class::BannedName).or_else(|| own().next());
    Answer::Table(vec![
        ("part", Answer::text(&part.path)),
        ("type", Answer::text(short(&part.media))),
        ("name", Answer::maybe(part.name(), |name| Answer::text(short(name)))),
        ("attachment", Answer::Truth(part.attachment)),
        ("size", Answer::count(part.data.len() as u64)),
        ("class", Answer::text(class.unwrap_or(Class::Other).name())),
    ])
}

fn short(text: &str) -> String {
    text.chars().take(MAX_NAME).collect()
}

#[cfg(test)]
mod tests {
    use super::of;
    use crate::body::Body;
    use crate::facts::Facts;
    use crate::inside::Inside;
    use crate::message::Message;
    use crate::policy::script::live::{Counting, Live};
    use crate::policy::script::tests::script_with;
    use crate::policy::script::{Bounds, Context, Replies};
    use crate::rate::{Memory, Moment};
    use crate::scan::Scanners;
    use crate::scan::tests::transaction;

    async fn told(text: String, closed: bool) -> serde_json::Value {
        let mut transaction = transaction();
        transaction.findings.size = text.len() as u64;
        let message = Message { transaction, body: Body::Memory(text.into()) };
        let (scanners, inside) = (Scanners::default(), Inside::alone());
        let facts = Facts::new(&message, &scanners).with_inside(&inside);
        of(&if closed { facts.closed() } else { facts }).await.to_json()
    }

    fn multipart(parts: &str) -> String {
        format!("Content-Type: multipart/mixed; boundary=b\r\n\r\n{parts}--b--\r\n")
    }

    #[tokio::test]
    async fn parts_have_their_names_sizes_and_classes() {
        let text = multipart(
            "--b\r\n\r\nhello\r\n--b\r\nContent-Type: application/pdf; name=\"a.pdf\"\r\n\
             Content-Disposition: attachment\r\n\r\n\x7fELF\x02\r\n",
        );
        let told = told(text.clone(), false).await;
        assert_eq!(told["scanned"], true, "{told}");
        let parts = told["parts"].as_array().unwrap();
        let of = |at: usize, field: &str| parts[at][field].to_string();
        assert_eq!(
            (of(0, "part"), of(0, "type"), of(0, "name")),
            ("\"1\"".into(), "\"text/plain\"".into(), "null".into())
        );
        assert_eq!(
            (of(1, "name"), of(1, "class"), of(1, "size")),
            ("\"a.pdf\"".into(), "\"executable\"".into(), "5".into())
        );
        assert_eq!((of(1, "attachment"), of(0, "attachment")), ("true".into(), "false".into()));
        let closed = self::told(text, true).await;
        assert_eq!((&closed["scanned"], &closed["cause"]), (&false.into(), &"privacy".into()), "{closed}");
        assert!(closed["parts"].as_array().is_none_or(Vec::is_empty), "{closed}");
    }

    /// The time is not the script's, so that it must not be able to ask for more and more of it.
    #[tokio::test]
    async fn a_message_is_looked_into_once_however_often_a_script_asks() {
        let text = multipart("--b\r\n\r\nhello\r\n");
        let mut transaction = transaction();
        transaction.findings.size = text.len() as u64;
        let message = Message { transaction, body: Body::Memory(text.into()) };
        let (scanners, inside) = (Scanners::default(), Inside::alone());
        let facts = Facts::new(&message, &scanners).with_inside(&inside);
        let source = "function data() for i = 1, 20 do
            assert(#parts().parts == 1 and parts().parts[1].part == '1')
            for depth = 0, 2 do assert(scan('filetype', { depth = depth }).scanned) end
        end end";
        let script = script_with(source, Bounds::default()).unwrap();
        let (replies, counting) = (Replies::default(), Counting::<Memory>::Nowhere);
        let mut world = Live::new(&facts, Context::Data, counting, &replies, "p", Moment(0)).await;
        assert_eq!(script.call(&mut world).await.unwrap(), None);
        assert_eq!(inside.inspector().counts().looked, 3, "once for each depth");
    }

    #[tokio::test]
    async fn parts_without_end_are_bounded() {
        let told = told(multipart(&"--b\r\n\r\nx\r\n".repeat(500)), false).await;
        assert_eq!(
            (told["parts"].as_array().unwrap().len(), &told["cause"]),
            (100, &"too-many-parts".into())
        );
    }
}
