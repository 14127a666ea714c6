//! What a script can find out and do: the live node, or recorded results for samples and `weir-filter try`.

use std::time::Duration;

use super::{Answer, Context, Question, Replies};
use crate::rate;

/// What is around one call of a script.
pub trait World: Send {
    /// The message's id, which every reply carries.
    fn id(&self) -> &str;

    /// What the script is asked now.
    fn context(&self) -> Context;

    /// The table that the script's function is given.
    fn message(&self) -> Answer;

    fn replies(&self) -> &Replies;

    /// Whether this scanner can be asked.
    fn has(&self, scanner: &str) -> bool;

    /// `depth`: archives within each other that are opened, where it is not the node's own number. The error says why
    /// this scanner cannot be asked at all.
    fn scan(
        &mut self,
        scanner: &str,
        depth: Option<u64>,
    ) -> impl Future<Output = Result<Answer, String>> + Send;

    fn rate(&mut self, ask: rate::Ask<'_>) -> impl Future<Output = Result<rate::Answer, rate::Away>> + Send;

    /// The values of all header fields of this name, in their order.
    fn headers(&mut self, name: &str) -> impl Future<Output = Result<Answer, String>> + Send;

    /// Asks others; `left`: for how long the script can wait. The error says why it may not ask that.
    fn ask(
        &mut self,
        question: Question,
        left: Duration,
    ) -> impl Future<Output = Result<Answer, String>> + Send;

    /// The message's parts.
    fn parts(&mut self) -> impl Future<Output = Answer> + Send;

    /// How good the mail of whoever sends the message has been, from 0 to 100.
    fn reputation(&mut self) -> impl Future<Output = Result<u64, rate::Away>> + Send;

    /// Whether a sample of the message was taken.
    fn quarantine(&mut self) -> impl Future<Output = bool> + Send;

    /// Whether whoever sends the message is blocked now.
    fn block(&mut self, duration: Duration, reason: &str) -> impl Future<Output = bool> + Send;

    fn stat(&mut self, namespace: &str, key: &str);

    fn log(&mut self, text: &str);

    /// What the script asked, and what it was told.
    fn asked(&mut self, _function: &str, _arguments: &[Answer], _answer: &Result<Answer, String>) {}

    /// Whether [`World::asked`] does anything.
    fn listens(&self) -> bool {
        false
    }
}
