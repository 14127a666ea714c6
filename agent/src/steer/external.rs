//! The operator's own rules bring the packets: nothing is installed, so there is nothing to check or remove.

use std::collections::BTreeMap;

use super::{BootTime, Pair, SteerError, Steering, Terms};

pub(super) struct External;

impl Steering for External {
    fn withdraw(&mut self) -> Result<(), SteerError> {
        Ok(())
    }

    fn remove(&mut self) -> Result<(), SteerError> {
        Ok(())
    }

    fn exempt(&mut self, _: &[(Pair, Terms)]) -> Result<(), SteerError> {
        Err(SteerError::OwnRules("exempt the pair"))
    }

    fn unexempt(&mut self, _: &[Pair]) -> Result<(), SteerError> {
        Err(SteerError::OwnRules("exempt the pair"))
    }

    fn release(&mut self, _: Option<BootTime>) -> Result<(), SteerError> {
        Err(SteerError::OwnRules("let customers' new connections pass"))
    }

    fn counters(&mut self) -> Result<BTreeMap<String, u64>, SteerError> {
        Ok(BTreeMap::new())
    }

    fn problems(&mut self) -> Vec<String> {
        Vec::new()
    }
}
