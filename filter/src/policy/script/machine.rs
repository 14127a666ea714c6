//! A virtual machine for scripts: what is in it, what is not, and how much it may take.
//!
//! A machine runs one call at a time and is then used again for another, for making one takes as long as many calls. A
//! call gets globals of its own; what it shares with others is read-only.

use std::sync::{Arc, Mutex, PoisonError};

use mlua::chunk::ChunkMode;
use mlua::{Function, Lua, LuaOptions, LuaString, MultiValue, StdLib, Table, Thread, Value};

use super::meter::Meter;
use super::{Bounds, FUNCTIONS};

const PRELUDE: &str = include_str!("prelude.luau");

/// Machines that wait for a call, at most; more than this many calls at a time make and drop their own.
const MAX_IDLE: usize = 64;

/// A machine whose last call left more than this behind is dropped, not kept.
const MAX_KEPT: usize = 4 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct Machine {
    lua: Lua,
    meter: Arc<Meter>,
}

/// What a script does when it stops running.
#[derive(Debug)]
pub(super) enum Step {
    /// It asks something; the name of the function and what it was given.
    Asks(String, MultiValue),
    /// It has run for long enough without a pause.
    Pauses,
    Ends,
}

impl Machine {
    pub(super) fn new(bounds: &Bounds) -> mlua::Result<Self> {
        let libraries = StdLib::COROUTINE
            | StdLib::TABLE
            | StdLib::STRING
            | StdLib::UTF8
            | StdLib::BIT
            | StdLib::MATH
            | StdLib::BUFFER;
        let lua = Lua::new_with(libraries, LuaOptions::default())?;
        let wait: Function = lua.globals().get::<Table>("coroutine")?.get("yield")?;
        let (find, split) = (lua.create_function(find)?, lua.create_function(split)?);
        lua.load(PRELUDE).set_name("=weir-filter").call::<()>((wait, FUNCTIONS.to_vec(), find, split))?;
        lua.sandbox(true)?;
        lua.set_memory_limit(bounds.memory)?;
        let meter = Arc::new(Meter::new());
        let of_machine = meter.clone();
        lua.set_interrupt(move |_| of_machine.interrupt());
        Ok(Self { lua, meter })
    }

    pub(super) fn lua(&self) -> &Lua {
        &self.lua
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// The script, from its beginning, with globals of its own.
    pub(super) fn load(&self, name: &str, code: &[u8]) -> mlua::Result<(Thread, Table)> {
        let globals = self.lua.create_table()?;
        let shared = self.lua.create_table()?;
        shared.raw_set("__index", self.lua.globals())?;
        shared.set_readonly(true);
        globals.set_metatable(Some(shared))?;
        globals.set_safeenv(true);
        let chunk = self.lua.load(code).set_name(format!("={name}")).set_mode(ChunkMode::Binary);
        let function = chunk.set_environment(globals.clone()).into_function()?;
        Ok((self.lua.create_thread(function)?, globals))
    }

    /// Runs a thread until it asks, pauses or ends.
    pub(super) fn resume(&self, thread: &Thread, values: MultiValue) -> mlua::Result<Step> {
        self.meter.begin();
        let out = thread.resume::<MultiValue>(values);
        self.meter.end();
        let mut out = out?;
        if !thread.is_resumable() {
            return Ok(Step::Ends);
        }
        match out.pop_front() {
            Some(Value::String(name)) => Ok(Step::Asks(name.to_string_lossy(), out)),
            _ => Ok(Step::Pauses),
        }
    }
}

/// `string.find` for plain text: where `sought` begins and ends, from the octet `from` on, counted from 1, or from the
/// end if negative.
fn find(
    _: &Lua,
    (text, sought, from): (LuaString, LuaString, Option<i64>),
) -> mlua::Result<(Option<usize>, Option<usize>)> {
    let (text, sought) = (text.as_bytes(), sought.as_bytes());
    let from = match from.unwrap_or(1) {
        from if from > 0 => usize::try_from(from).unwrap_or(usize::MAX).saturating_sub(1),
        0 => 0,
        back => text.len().saturating_sub(usize::try_from(back.unsigned_abs()).unwrap_or(usize::MAX)),
    };
    let found = text.get(from..).and_then(|rest| memchr::memmem::find(rest, &sought));
    Ok(match found {
        Some(at) => (Some(from + at + 1), Some(from + at + sought.len())),
        None => (None, None),
    })
}

/// `string.split` for separators of more than one octet.
fn split(lua: &Lua, (text, separator): (LuaString, LuaString)) -> mlua::Result<Table> {
    let (text, separator) = (text.as_bytes(), separator.as_bytes());
    let parts = lua.create_table()?;
    let mut begin = 0;
    for at in memchr::memmem::find_iter(&text, &*separator) {
        parts.raw_push(lua.create_string(text.get(begin..at).unwrap_or_default())?)?;
        begin = at + separator.len();
    }
    parts.raw_push(lua.create_string(text.get(begin..).unwrap_or_default())?)?;
    Ok(parts)
}

/// Machines between calls.
#[derive(Debug)]
pub(super) struct Machines {
    bounds: Bounds,
    idle: Mutex<Vec<Machine>>,
}

impl Machines {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, idle: Mutex::default() }
    }

    /// A machine for one call.
    pub(super) fn take(&self) -> mlua::Result<Machine> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let machine = idle.map_or_else(|| Machine::new(&self.bounds), Ok)?;
        machine.meter.reset(self.bounds.cpu);
        Ok(machine)
    }

    /// After a call that ended as it should.
    pub(super) fn put_back(&self, machine: Machine) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE && machine.lua.used_memory() <= MAX_KEPT {
            idle.push(machine);
        }
    }
}
