//! What the running programs say of themselves.

use anyhow::{Result, ensure};
use weir_tests::components::{AgentConfig, Backend, WeirAgent, WeirFilter};
use weir_tests::lab::{Lab, NarrowLink};

on_both_back_ends!(the_agent_answers_while_it_runs);

fn the_agent_answers_while_it_runs(backend: Backend) -> Result<()> {
    Lab::run("status", NarrowLink::Nowhere, |lab| {
        let silent = WeirAgent::command(&lab.gateway, &["status"])?;
        ensure!(!silent.success && !silent.output.trim().is_empty(), "no agent runs: {}", silent.output);
        let _filters = WeirFilter::start_both(&lab.filter, |config| config)?;
        let agent = WeirAgent::start(&lab.gateway, &AgentConfig::new(backend))?;
        let status = WeirAgent::status(&lab.gateway)?;
        ensure!(status["backend"] == backend.name(), "{status}");
        ensure!(status["nodes"].as_array().is_some_and(|nodes| nodes.len() == 2), "{status}");
        let words = WeirAgent::command(&lab.gateway, &["status"])?;
        ensure!(words.success && words.output.contains(backend.name()), "{}", words.output);
        let longest = words.output.lines().map(str::len).max().unwrap_or_default();
        ensure!(longest <= 80, "{longest} columns:\n{}", words.output);
        agent.kill()?;
        let dead = WeirAgent::command(&lab.gateway, &["status"])?;
        ensure!(!dead.success, "the agent is dead, but: {}", dead.output);
        Ok(())
    })
}
