//! Numbers in as few octets as they need.

/// Numbers one after another, each a varint (LEB128): one below 128 is an octet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Packed(Vec<u8>);

/// Octets of the longest number.
const LONGEST: usize = 10;

/// Room is made for so many octets at a time, which is what allocators hand out.
const STEP: usize = 16;

/// Another octet of the same number follows.
const MORE: u8 = 0x80;

impl Packed {
    pub(super) fn len(&self) -> u64 {
        self.0.iter().filter(|octet| **octet & MORE == 0).count() as u64
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u64> {
        let mut rest = self.0.as_slice();
        std::iter::from_fn(move || {
            let (number, after) = postcard::take_from_bytes(rest).ok()?;
            rest = after;
            Some(number)
        })
    }

    pub(super) fn push(&mut self, number: u64) {
        let mut octets = [0; LONGEST];
        // There is room for every number.
        let octets: &[u8] = postcard::to_slice(&number, &mut octets).map_or(&[], |octets| octets);
        if self.0.capacity() - self.0.len() < octets.len() {
            self.0.reserve_exact(octets.len().max(STEP));
        }
        self.0.extend_from_slice(octets);
    }

    pub(super) fn pop(&mut self) -> Option<u64> {
        let before = self.0.len().checked_sub(1)?;
        let begins = self.0[..before].iter().rposition(|octet| octet & MORE == 0).map_or(0, |end| end + 1);
        let number = postcard::from_bytes(&self.0[begins..]).ok();
        self.0.truncate(begins);
        number
    }

    pub(super) fn drop_first(&mut self, count: u64) {
        let ends = self.0.iter().enumerate().filter(|(_, octet)| **octet & MORE == 0).map(|(at, _)| at + 1);
        let mut left = count;
        let begins = ends.take_while(|_| left.checked_sub(1).map(|less| left = less).is_some()).last();
        self.0.drain(..begins.unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Packed;

    #[derive(Debug, Clone)]
    enum Step {
        Push(u64),
        Pop,
        DropFirst(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => prop_oneof![0u64..3, 0u64..1000, any::<u64>(), Just(u64::MAX)].prop_map(Step::Push),
            1 => Just(Step::Pop),
            1 => prop_oneof![0u64..4, Just(u64::MAX)].prop_map(Step::DropFirst),
        ]
    }

    proptest! {
        /// As a plain list does.
        #[test]
        fn a_list_of_numbers(steps in prop::collection::vec(step(), 0..100)) {
            let (mut packed, mut plain) = (Packed::default(), Vec::new());
            for step in steps {
                match step {
                    Step::Push(number) => (packed.push(number), plain.push(number)).0,
                    Step::Pop => prop_assert_eq!(packed.pop(), plain.pop()),
                    Step::DropFirst(count) => {
                        packed.drop_first(count);
                        plain.drain(..usize::try_from(count).unwrap().min(plain.len()));
                    }
                }
                prop_assert_eq!(packed.iter().collect::<Vec<_>>(), plain.clone());
                prop_assert_eq!(packed.len(), plain.len() as u64);
            }
        }
    }
}
