//! One call of a script: it runs, asks, is answered, and ends with a verdict or without one.

use std::time::{Duration, Instant};

use mlua::{MultiValue, Value};
use tokio::time::timeout;

use super::ask::Arguments;
use super::machine::{Machine, Step};
use super::{AT_END_OF_DATA, Answer, Bounds, Context, Question, Script, ScriptError, World, reply};
use crate::policy::{Refusal, Verdict};
use crate::rate;

/// Functions that one call may call.
const MAX_CALLS: usize = 1000;

/// What comes of an answer to a script.
enum Next {
    Answered(Result<Answer, String>),
    Ended(Verdict),
}

/// The time a call has had, without that in which scanners had it.
struct Watch {
    began: Instant,
    scanning: Duration,
    limit: Duration,
}

impl Watch {
    /// None: nothing is left.
    fn left(&self) -> Option<Duration> {
        let left = self.limit.checked_sub(self.began.elapsed().saturating_sub(self.scanning))?;
        (!left.is_zero()).then_some(left)
    }
}

impl Script {
    /// Asks the script. None: it came to its end without a verdict.
    ///
    /// # Errors
    /// Why it gave none.
    pub async fn call<W: World>(&self, world: &mut W) -> Result<Option<Verdict>, ScriptError> {
        let failed = |error: mlua::Error| ScriptError::from_lua(&error, self.bounds.memory);
        let machine = self.machines.take().map_err(failed)?;
        let result = self.call_on(&machine, world).await;
        // After an error the machine may hold anything.
        if result.is_ok() {
            self.machines.put_back(machine);
        }
        result
    }

    async fn call_on<W: World>(
        &self,
        machine: &Machine,
        world: &mut W,
    ) -> Result<Option<Verdict>, ScriptError> {
        let failed = |error: mlua::Error| ScriptError::from_lua(&error, self.bounds.memory);
        let mut watch = Watch { began: Instant::now(), scanning: Duration::ZERO, limit: self.bounds.wall };
        let (begin, globals) = machine.load(&self.name, &self.code).map_err(failed)?;
        self.run(machine, &begin, MultiValue::new(), &mut watch, None::<&mut W>).await?;
        let Ok(Value::Function(function)) = globals.raw_get(world.context().name()) else { return Ok(None) };
        let thread = machine.lua().create_thread(function).map_err(failed)?;
        let message = world.message().to_lua(machine.lua()).map_err(failed)?;
        let values = MultiValue::from_iter([message]);
        self.run(machine, &thread, values, &mut watch, Some(world)).await
    }

    /// `world`: none while the script is at its beginning, which may ask nothing.
    async fn run<W: World>(
        &self,
        machine: &Machine,
        thread: &mlua::Thread,
        mut values: MultiValue,
        watch: &mut Watch,
        mut world: Option<&mut W>,
    ) -> Result<Option<Verdict>, ScriptError> {
        let failed = |error: mlua::Error| ScriptError::from_lua(&error, self.bounds.memory);
        let mut calls = 0;
        loop {
            let step = machine.resume(thread, std::mem::take(&mut values));
            if machine.meter().is_exhausted() {
                return Err(ScriptError::Processor(self.bounds.cpu));
            }
            let left = watch.left().ok_or(ScriptError::Time(self.bounds.wall))?;
            let (function, given) = match step.map_err(failed)? {
                Step::Ends => return Ok(None),
                Step::Pauses => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Step::Asks(function, given) => (function, Arguments::new(given)),
            };
            calls += 1;
            if calls > MAX_CALLS {
                return Err(ScriptError::Calls(MAX_CALLS));
            }
            let world = world.as_deref_mut().ok_or_else(|| outside(&function))?;
            let shown = if world.listens() { given.shown() } else { Vec::new() };
            let asked = Instant::now();
            let next = if world.context() != Context::Data && AT_END_OF_DATA.contains(&function.as_str()) {
                Next::Answered(Err("can be called in data only: before, there is no message".into()))
            } else if matches!(function.as_str(), "scan" | "parts") {
                // Scanners have limits of their own, as has what looks into a message.
                let next = look(&function, &given, world).await;
                watch.scanning += asked.elapsed();
                next
            } else {
                let answer = timeout(left, answer(&function, &given, &self.bounds, world, left)).await;
                answer.map_err(|_| ScriptError::Time(self.bounds.wall))?
            };
            let answer = match next {
                Next::Ended(verdict) => {
                    world.asked(&function, &shown, &Ok(Answer::Nil));
                    return Ok(Some(verdict));
                }
                Next::Answered(answer) => answer,
            };
            world.asked(&function, &shown, &answer);
            values = told(machine, &function, answer).map_err(failed)?;
        }
    }
}

pub(super) fn outside(function: &str) -> ScriptError {
    ScriptError::Failed(format!("{function} can be called in connect, rcpt and data only"))
}

/// What the suspended function gives back, as the prelude understands it.
fn told(machine: &Machine, function: &str, answer: Result<Answer, String>) -> mlua::Result<MultiValue> {
    let lua = machine.lua();
    Ok(match answer {
        Ok(answer) => MultiValue::from_iter([Value::Boolean(true), answer.to_lua(lua)?]),
        Err(what) => {
            let what = lua.create_string(format!("{function}: {what}"))?;
            MultiValue::from_iter([Value::Boolean(false), Value::String(what)])
        }
    })
}

async fn look<W: World>(function: &str, given: &Arguments, world: &mut W) -> Next {
    if function == "parts" {
        return Next::Answered(Ok(world.parts().await));
    }
    let scanned = match given.scan() {
        Ok((scanner, depth)) => world.scan(&scanner, depth).await,
        Err(what) => Err(what),
    };
    Next::Answered(scanned)
}

async fn answer<W: World>(
    function: &str,
    given: &Arguments,
    bounds: &Bounds,
    world: &mut W,
    left: Duration,
) -> Next {
    let result = match function {
        "rate" => return rate(given, world).await,
        "reputation" => {
            return match world.reputation().await {
                Ok(number) => Next::Answered(Ok(Answer::count(number))),
                Err(_) => Next::Ended(Verdict::Refuse(Refusal::counters_away())),
            };
        }
        "accept" => return Next::Ended(Verdict::Accept),
        "defer" => return refuse(4, given, world),
        "reject" => return refuse(5, given, world),
        "has" => given.text(0, "scanner").map(|scanner| Answer::Truth(world.has(&scanner))),
        "headers" => match given.text(0, "name") {
            Ok(name) => world.headers(&name).await,
            Err(what) => Err(what),
        },
        "dns" | "dnsbl" | "dnswl" | "http" => match Question::new(function, given) {
            Ok(question) => world.ask(question, left).await,
            Err(what) => Err(what),
        },
        "quarantine" => Ok(Answer::Truth(world.quarantine().await)),
        "block" => match given.block(bounds.block) {
            Ok((duration, reason)) => Ok(Answer::Truth(world.block(duration, &reason).await)),
            Err(what) => Err(what),
        },
        "log" => given.text(0, "text").map(|text| {
            world.log(&text);
            Answer::Nil
        }),
        "stat" => given.stat().map(|(namespace, key)| {
            world.stat(&namespace, &key);
            Answer::Nil
        }),
        _ => Err("is not known".into()),
    };
    Next::Answered(result)
}

async fn rate<W: World>(given: &Arguments, world: &mut W) -> Next {
    let asked = match given.rate() {
        Ok(asked) => asked,
        Err(what) => return Next::Answered(Err(what)),
    };
    let ask = rate::Ask {
        namespace: &asked.namespace,
        key: &asked.key,
        limit: asked.limit,
        seconds: asked.seconds,
        weight: asked.weight,
        message: None,
    };
    match world.rate(ask).await {
        Ok(answer) if asked.limit == 0 => Next::Answered(Ok(Answer::count(answer.sum))),
        Ok(answer) => Next::Answered(Ok(Answer::Truth(answer.within))),
        // As the presets do: nobody knows how much was sent.
        Err(_) => Next::Ended(Verdict::Refuse(Refusal::counters_away())),
    }
}

fn refuse<W: World>(class: u16, given: &Arguments, world: &W) -> Next {
    let refusal = given.wanted().and_then(|wanted| reply::refusal(class, wanted, world.replies()));
    match refusal {
        Ok(refusal) => Next::Ended(Verdict::Refuse(refusal)),
        Err(what) => Next::Answered(Err(what)),
    }
}
