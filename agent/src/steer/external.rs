//! The operator's own rules bring the packets: nothing is installed, so there is nothing to check or remove.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::{BootTime, Claim, Connections, Pair, RuleKind, Rules, SteerError, Steering, Tables, Terms};

#[derive(Default)]
pub(crate) struct External {
    /// Held; none where nothing is steered any more.
    claim: Option<Claim>,
}

impl External {
    pub(super) fn new(claim: Claim) -> Self {
        Self { claim: Some(claim) }
    }
}

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

    fn set_tables(&mut self, _: &Tables) -> Result<(), SteerError> {
        // Whose mail is intercepted is said in those rules.
        Ok(())
    }

    fn set_rules(&mut self, kind: RuleKind, _: &Rules) -> Result<(), SteerError> {
        Err(SteerError::OwnRules(match kind {
            RuleKind::Blocked => "refuse the customer",
            RuleKind::ExemptCustomer => "exempt the customer",
            RuleKind::ExemptDestination => "exempt the destination",
        }))
    }

    fn applied(&mut self, _: RuleKind) -> Result<BTreeMap<IpNet, u64>, SteerError> {
        Ok(BTreeMap::new())
    }

    fn passed(&mut self, _: &[Pair]) -> Result<BTreeMap<Pair, u64>, SteerError> {
        Ok(BTreeMap::new())
    }

    fn connections(&mut self) -> Result<Option<Box<dyn Connections>>, SteerError> {
        Ok(None)
    }

    fn take_charge(&mut self, claim: Claim) -> Result<(), SteerError> {
        self.claim = Some(claim);
        Ok(())
    }

    fn counters(&mut self) -> Result<BTreeMap<String, u64>, SteerError> {
        Ok(BTreeMap::new())
    }

    fn problems(&mut self) -> Vec<String> {
        Vec::new()
    }
}
