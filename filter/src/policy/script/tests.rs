use std::time::Duration;

use super::{Answer, Bounds, Context, LoadError, Question, Replies, Script, ScriptError, World};
use crate::policy::Verdict;
use crate::rate;

/// A world in which little is known, and what is said to it is kept.
#[derive(Debug, Default)]
pub(super) struct Alone {
    pub(super) answers_after: Duration,
    pub(super) scans_for: Duration,
    pub(super) logged: Vec<String>,
    pub(super) replies: Replies,
}

impl World for Alone {
    fn id(&self) -> &str {
        "ID"
    }

    fn context(&self) -> Context {
        Context::Data
    }

    fn message(&self) -> Answer {
        Answer::Table(vec![("id", Answer::text("ID"))])
    }

    fn replies(&self) -> &Replies {
        &self.replies
    }

    fn has(&self, scanner: &str) -> bool {
        scanner == "spamassassin"
    }

    async fn scan(&mut self, scanner: &str, _: Option<u64>) -> Result<Answer, String> {
        tokio::time::sleep(self.scans_for).await;
        if scanner == "spamassassin" { Ok(Answer::Number(1.5)) } else { Err("is not configured".into()) }
    }

    async fn rate(&mut self, ask: rate::Ask<'_>) -> Result<rate::Answer, rate::Away> {
        tokio::time::sleep(self.answers_after).await;
        match ask.namespace {
            "away" => Err(rate::Away),
            _ => Ok(rate::Answer { within: ask.weight <= ask.limit, sum: ask.weight }),
        }
    }

    async fn headers(&mut self, _: &str) -> Result<Answer, String> {
        Ok(Answer::List(vec![Answer::text("a"), Answer::text("b")]))
    }

    async fn ask(&mut self, question: Question, _: Duration) -> Result<Answer, String> {
        Ok(question.unasked(None))
    }

    async fn parts(&mut self) -> Answer {
        Answer::Table(vec![("parts", Answer::List(Vec::new()))])
    }

    async fn reputation(&mut self) -> Result<u64, rate::Away> {
        Ok(50)
    }

    async fn quarantine(&mut self) -> bool {
        self.logged.push("quarantine".into());
        true
    }

    async fn block(&mut self, duration: Duration, reason: &str) -> bool {
        self.logged.push(format!("block {} {reason}", duration.as_secs()));
        true
    }

    fn stat(&mut self, namespace: &str, key: &str) {
        self.logged.push(format!("{namespace}/{key}"));
    }

    fn log(&mut self, text: &str) {
        self.logged.push(text.to_owned());
    }
}

pub(super) fn script_with(source: &str, bounds: Bounds) -> Result<Script, LoadError> {
    Script::new("test.luau", source, bounds)
}

fn script(source: &str) -> Result<Script, LoadError> {
    script_with(source, Bounds::default())
}

async fn call(body: &str) -> (Result<Option<Verdict>, ScriptError>, Vec<String>) {
    let script = script(&format!("function data(message)\n{body}\nend")).unwrap();
    let mut world = Alone::default();
    let result = script.call(&mut world).await;
    (result, world.logged)
}

async fn reply(body: &str) -> String {
    let (verdict, _) = call(body).await;
    verdict.unwrap().unwrap().reply("ID").to_string()
}

async fn failure(body: &str) -> String {
    call(body).await.0.unwrap_err().to_string()
}

#[tokio::test]
async fn verdicts_end_a_script_and_carry_the_id() {
    assert_eq!(reply("accept() log('never')").await, "250 2.0.0 accepted (ID)");
    assert_eq!(reply("defer('later')").await, "451 4.7.1 later (ID)");
    assert_eq!(reply("reject('no, {id}')").await, "550 5.7.1 no, ID");
    assert_eq!(
        reply("reject('one\\ntwo', { code = 554, status = '5.7.0', rule = 'r' })").await,
        "554 5.7.0 one 5.7.0 two (ID)"
    );
    assert_eq!(
        reply("defer('at most {limit}, see {contact}', { limit = 3, contact = 'here' })").await,
        "451 4.7.1 at most 3, see here (ID)"
    );
    // No pcall brings it back.
    let (verdict, logged) = call("pcall(reject, 'no') log('never')").await;
    assert_eq!((verdict.unwrap().unwrap().name(), logged.len()), ("reject", 0));
    let (verdict, logged) = call("log('end')").await;
    assert_eq!((verdict, logged), (Ok(None), vec!["end".to_owned()]));
}

#[tokio::test]
async fn counters_that_are_away_defer() {
    assert_eq!(
        reply("pcall(rate, 'away', 'k', 1, 60)").await,
        "451 4.7.1 Temporarily unable to check your sending rate, try later (ID)"
    );
}

#[tokio::test]
async fn functions_answer() {
    let (result, logged) = call(
        "log(message.id .. tostring(rate('n', 'k', 1, 60)) .. tostring(rate('n', 'k', 1, 60, 2)))\n\
         log(rate('n', 'k', 0, 60, 7) + 1)\n\
         log(scan('spamassassin') .. ' ' .. headers('X')[2])\n\
         stat('actions', 'defer')",
    )
    .await;
    assert_eq!(result, Ok(None));
    assert_eq!(logged, ["IDtruefalse", "8", "1.5 b", "actions/defer"]);
}

#[tokio::test]
async fn samples_blocks_and_parts_are_asked_for() {
    let (result, logged) =
        call("log(tostring(quarantine())) log(tostring(block(3600, 'a bot'))) log(tostring(#parts().parts)) log(reputation() + 1)")
            .await;
    assert_eq!(result, Ok(None));
    assert_eq!(logged, ["quarantine", "true", "block 3600 a bot", "true", "0", "51"]);
    let wrong = "test.luau:2: block: seconds must be a whole number from 0 to 86400";
    assert_eq!(failure("block(86401, 'x')").await, wrong);
    assert_eq!(failure("block(0, 'x')").await, "test.luau:2: block: seconds must be at least 1");
    for text in ["'two\\nlines'", "string.rep('x', 201)"] {
        let error = failure(&format!("block(60, {text})")).await;
        assert_eq!(error, "test.luau:2: block: text must be one line of at most 200 characters");
    }
}

#[tokio::test]
async fn errors_say_what_and_where() {
    assert_eq!(
        failure("\nrate('n', 'k', 1.5, 60)").await,
        "test.luau:3: rate: limit must be a whole number from 0 to 4294967295"
    );
    assert_eq!(failure("rate('n', nil, 1, 60)").await, "test.luau:2: rate: key must be a text, not nil");
    assert_eq!(failure("rate('n', '', 1, 60)").await, "test.luau:2: rate: key is empty");
    assert_eq!(
        failure("rate('n', 'k', 1, 0)").await,
        "test.luau:2: rate: seconds and weight must be at least 1"
    );
    assert_eq!(failure("scan('nosuch')").await, "test.luau:2: scan: is not configured");
    assert_eq!(
        failure("defer('x', { code = 421 })").await,
        "test.luau:2: defer: code 421 is not one of 450, 451, 452"
    );
    assert_eq!(
        failure("defer('x', { cod = 451 })").await,
        "test.luau:2: defer: \"cod\" is none of code, status, rule, limit and contact"
    );
    assert_eq!(
        failure("scan('spamassassin', { depth = 1 })").await,
        "test.luau:2: scan: depth is for filetype only"
    );
    assert_eq!(
        failure("scan('filetype', { deep = 1 })").await,
        "test.luau:2: scan: \"deep\" is none of depth"
    );
    assert_eq!(failure("nosuch()").await, "test.luau:2: attempt to call a nil value");
    assert_eq!(failure("error('own')").await, "test.luau:2: own");
    assert!(failure("error({})").await.len() < 200);
}

#[tokio::test]
async fn what_is_no_script_is_refused() {
    let error = script("function data(").unwrap_err().to_string();
    assert!(error.starts_with("test.luau:1: "), "{error}");
    let error = script("local x = 1").unwrap_err().to_string();
    assert_eq!(error, "test.luau has no function connect, rcpt or data: it would never be asked");
    let error = script("local x = nil + 1\nfunction data() end").unwrap_err().to_string();
    assert!(error.starts_with("test.luau: test.luau:1: attempt to perform arithmetic"), "{error}");
}

#[tokio::test]
async fn nothing_dangerous_is_there() {
    for name in [
        "io",
        "os",
        "require",
        "loadstring",
        "load",
        "dofile",
        "loadfile",
        "package",
        "debug",
        "coroutine",
        "getfenv",
        "setfenv",
        "newproxy",
        "collectgarbage",
        "gcinfo",
        "print",
        "_G",
        "shared",
        "math.randomseed",
        "ffi",
        "jit",
    ] {
        let (result, _) = call(&format!("assert({name} == nil, 'is there')")).await;
        assert_eq!(result, Ok(None), "{name}");
    }
    for change in [
        "string.find = nil",
        "getmetatable('').__index = {}",
        "rawset(string, 'x', 1)",
        "table.clear(math)",
        "setmetatable(string, {})",
        "table.insert(table, 1)",
    ] {
        let (result, _) = call(change).await;
        assert!(result.is_err(), "{change}");
    }
}

#[tokio::test]
async fn nothing_of_a_message_is_seen_by_the_next() {
    let source = "local seen = 0\nlist = {}\nfunction data()\n seen += 1\n before = list[1]\n list[1] = 'x'\n \
                  log(tostring(global) .. seen .. tostring(before))\n global = 'x'\n rate = nil\nend";
    let script = script(source).unwrap();
    for _ in 0..5 {
        let mut world = Alone::default();
        assert_eq!(script.call(&mut world).await, Ok(None));
        assert_eq!(world.logged, ["nil1nil"]);
    }
}

#[tokio::test]
async fn long_keys_are_kept_apart() {
    let (result, _) = call("local l = string.rep('é', 300) rate('n', l, 1, 60) rate('n', l .. 'x', 1, 60) rate('n', '\\255\\0', 1, 60)").await;
    assert_eq!(result, Ok(None));
}

#[tokio::test]
async fn find_and_split_are_as_luau_has_them() {
    let (result, _) = call(
        "local function same(a, b, c, d) assert(a == c and b == d, tostring(a) .. tostring(b)) end\n\
         same(1, 2, string.find('abcabc', 'ab')) same(4, 5, string.find('abcabc', 'ab', 2))\n\
         same(4, 5, string.find('abcabc', 'ab', -3)) same(1, 2, string.find('abcabc', 'ab', -30))\n\
         same(nil, nil, string.find('abc', 'x')) same(nil, nil, ('abc'):find('c', 9))\n\
         same(1, 0, string.find('abc', '')) same(4, 3, string.find('abc', '', 4)) same(nil, nil, string.find('abc', '', 5))\n\
         same(2, 2, string.find('a.c', '.', 1, true) ) same(1, 1, string.find('a.c', '.'))\n\
         same(2, 3, (string.find('12', 2)), 3)\n\
         local parts = string.split('a--b----c', '--')\n\
         assert(table.concat(parts, '|') == 'a|b||c' and #string.split('a,b', ',') == 2 and #string.split('', 'xx') == 1)\n\
         local list = { 3, 1, 2 } table.sort(list) assert(table.concat(list) == '123')",
    )
    .await;
    assert_eq!(result, Ok(None));
}
