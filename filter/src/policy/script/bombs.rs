//! Scripts that would take all they can get: each ends within its limit, whatever it does about errors, and what runs
//! beside it goes on.

use std::time::{Duration, Instant};

use super::tests::{Alone, script_with};
use super::{Bounds, Script, ScriptError};

const MEMORY: usize = 8 * 1024 * 1024;

fn bomb(body: &str) -> Script {
    let bounds = Bounds { memory: MEMORY, ..Bounds::default() };
    script_with(&format!("function data(message)\n{body}\nend"), bounds).unwrap()
}

async fn explode(body: &str) -> (Result<(), ScriptError>, Duration) {
    let script = bomb(body);
    let began = Instant::now();
    let result = script.call(&mut Alone::default()).await.map(|_| ());
    (result, began.elapsed())
}

/// The limit, and what a busy machine adds to it.
const SOON: Duration = Duration::from_millis(1500);

async fn ends_for_time(body: &str) {
    let (result, took) = explode(body).await;
    assert!(matches!(result, Err(ScriptError::Processor(_))), "{body}: {result:?}");
    assert!(took < SOON, "{body}: {took:?}");
}

async fn ends_for_memory(body: &str) {
    let (result, took) = explode(body).await;
    assert_eq!(result, Err(ScriptError::Memory(MEMORY)), "{body}");
    assert!(took < SOON, "{body}: {took:?}");
}

#[tokio::test]
async fn endless_loops_end() {
    ends_for_time("while true do end").await;
    ends_for_time("repeat until false").await;
    ends_for_time("for i = 1, 1e15 do end").await;
    ends_for_time("for _ in function() return 1 end do end").await;
    ends_for_time("setmetatable({}, { __index = function() while true do end end }).x()").await;
}

#[tokio::test]
async fn errors_that_are_caught_help_no_script() {
    ends_for_time("while true do pcall(function() while true do end end) end").await;
    ends_for_time("local function f() pcall(f) pcall(f) while true do end end f()").await;
    ends_for_time(
        "while true do xpcall(function() while true do end end, function() while true do end end) end",
    )
    .await;
    ends_for_time("while true do pcall(error, 'x') end").await;
    ends_for_time("while true do pcall(string.rep, 'x', 1e9) end").await;
    ends_for_time("local function f() f() f() end while true do pcall(f) end").await;
    // Nor where the interrupt cannot suspend it.
    ends_for_time(
        "table.sort({ 3, 2, 1 }, function() while true do pcall(function() while true do end end) end end)",
    )
    .await;
    ends_for_time("while true do pcall(string.gsub, 'x', '.', function() while true do end end) end").await;
    ends_for_time("local t = setmetatable({}, { __lt = function() while true do end end }) while true do pcall(function() return t < t end) end").await;
}

#[tokio::test]
async fn patterns_and_long_texts_end() {
    let text = "local s = string.rep('a', 1000000)\n";
    ends_for_time(&format!("{text} return string.find(s, string.rep('a*', 30) .. 'b')")).await;
    ends_for_time(&format!("{text} return string.match(s, '(.-)(.-)(.-)(.-)(.-)b$')")).await;
    ends_for_time(&format!("{text} return (string.gsub(s, '.-.-.-.-b', ''))")).await;
    ends_for_time(&format!("{text} for _ in string.gmatch(s, '.-.-.-b') do end")).await;
    ends_for_time(&format!(
        "{text} local n = string.rep('a', 500000) .. 'b' while true do string.find(s, n, 1, true) end"
    ))
    .await;
    ends_for_time("local t = {} for i = 1, 200000 do t[i] = (i * 7919) % 200003 end while true do table.sort(t) table.sort(t, function(a, b) return a > b end) end").await;
    ends_for_time("return string.match(string.rep('(', 100000), string.rep('%b()', 100))").await;
    // Nobody sees a plain search that would take hours: it takes as long as the text is.
    let (result, took) = explode(&format!(
        "{text} assert(not string.find(s, string.rep('a', 500000) .. 'b', 1, true))\n\
         assert(not s:find(string.rep('a', 500000) .. 'b'))\n\
         assert(#string.split(s, string.rep('a', 400000) .. 'b') == 1)"
    ))
    .await;
    assert_eq!(result, Ok(()));
    assert!(took < SOON, "{took:?}");
}

#[tokio::test]
async fn memory_ends() {
    ends_for_memory("local t = {} while true do t[#t + 1] = string.rep('x', 1000) .. #t end").await;
    ends_for_memory("local s = 'x' while true do s = s .. s end").await;
    ends_for_memory("return string.rep('x', 100000000)").await;
    ends_for_memory("return table.create(10000000, 1)").await;
    ends_for_memory("return buffer.create(1000000000)").await;
    ends_for_memory("local t = {} while true do t = { t } end").await;
    ends_for_memory("local t = {} for i = 1, 100 do t[i] = string.rep('x', 70000) end return table.concat(t, string.rep('y', 70000))").await;
}

#[tokio::test]
async fn recursion_ends() {
    for body in [
        "local function f() return 1 + f() end f()",
        "local function again() return again() end again()",
        "local t = setmetatable({}, {}) getmetatable(t).__index = function(_, k) return t[k] end return t.x",
        "local function f() return (string.gsub('x', '.', f)) end f()",
        "local function f() table.sort({ 2, 1 }, f) end f()",
        "return string.find(string.rep('a', 100000), string.rep('(a', 100000))",
        "local t = setmetatable({}, { __tostring = function(t) return tostring(t) end }) return tostring(t)",
    ] {
        let (result, took) = explode(body).await;
        assert!(matches!(result, Err(ScriptError::Failed(_) | ScriptError::Memory(_))), "{body}: {result:?}");
        assert!(took < SOON, "{body}: {took:?}");
    }
}

#[tokio::test]
async fn a_flood_of_questions_ends() {
    let (result, _) = explode("while true do rate('n', 'k', 0, 60) end").await;
    assert_eq!(result, Err(ScriptError::Calls(1000)));
    let (result, _) = explode("while true do pcall(rate) end").await;
    assert_eq!(result, Err(ScriptError::Calls(1000)));
}

#[tokio::test]
async fn what_waits_longer_than_the_wall_ends() {
    let bounds = Bounds { wall: Duration::from_millis(50), ..Bounds::default() };
    let script = script_with("function data() rate('n', 'k', 1, 60) end", bounds).unwrap();
    let mut slow = Alone { answers_after: Duration::from_secs(60), ..Alone::default() };
    let began = Instant::now();
    assert_eq!(script.call(&mut slow).await, Err(ScriptError::Time(bounds.wall)));
    assert!(began.elapsed() < SOON);
    // A scanner has limits of its own, and the script has all of its time after it.
    let script = script_with("function data() scan('spamassassin') log('after') end", bounds).unwrap();
    let mut slow = Alone { scans_for: Duration::from_millis(200), ..Alone::default() };
    assert_eq!(script.call(&mut slow).await, Ok(None));
    assert_eq!(slow.logged, ["after"]);
}

/// On one thread, so that a bomb that is never suspended would hold up all others.
#[tokio::test]
async fn other_messages_go_on() {
    let bomb = bomb("while true do end");
    let short = script_with("function data() accept() end", Bounds::default()).unwrap();
    let mut world = Alone::default();
    let exploding = bomb.call(&mut world);
    let mut judged = 0;
    let others = async {
        loop {
            short.call(&mut Alone::default()).await.unwrap();
            judged += 1;
            tokio::task::yield_now().await;
        }
    };
    let exploded = tokio::select! {
        exploded = exploding => exploded,
        () = others => Ok(None),
    };
    assert!(matches!(exploded, Err(ScriptError::Processor(_))), "{exploded:?}");
    assert!(judged >= 5, "{judged}");
}

#[test]
fn a_bomb_at_the_beginning_is_refused_as_it_is_loaded() {
    for source in ["while true do end", "local s = 'x' while true do s = s .. s end", "rate('n', 'k', 0, 1)"]
    {
        let error = script_with(source, Bounds::default()).unwrap_err().to_string();
        assert!(error.starts_with("test.luau: "), "{error}");
    }
}
