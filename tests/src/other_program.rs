//! A tc program that is not weir's: it sets a bit of the packet's mark, by which it is known to have run, and answers what
//! it is told to.

use anyhow::{Context, Result};
use aya::programs::links::LinkOrder;
use aya::programs::tc::{NlOptions, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact};
use aya::programs::{SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader};
use object::write::{Object, Symbol, SymbolSection};
use object::{Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope};

use crate::lab::Host;

/// Answers: others go on; the packet passes for good.
pub const UNSPEC: i32 = -1;
pub const OK: i32 = 0;

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Before all others that are there; on a kernel without TCX a filter before weir's.
    First,
    /// Behind all others that are there; on a kernel without TCX a filter right behind weir's.
    Last,
    /// A filter of the clsact qdisc, with this priority.
    Filter(u16),
}

/// On the interface until dropped; a filter as long as the interface.
pub struct OtherProgram(#[expect(dead_code, reason = "held open")] Ebpf);

impl OtherProgram {
    pub fn attach(host: &Host, interface: &str, place: Place, bit: i32, answer: i32) -> Result<Self> {
        let object = object(bit, answer)?;
        host.in_network(|| {
            let mut ebpf = EbpfLoader::new().load(&object).context("load another's program")?;
            let program: &mut SchedClassifier =
                ebpf.program_mut("other").context("the program")?.try_into()?;
            program.load()?;
            let bit_number = u16::try_from(bit.trailing_zeros())?;
            let place = match place {
                Place::First if !has_tcx() => Place::Filter(24 - bit_number),
                Place::Last if !has_tcx() => Place::Filter(26 + bit_number),
                place => place,
            };
            let options = match place {
                Place::First => TcAttachOptions::TcxOrder(LinkOrder::first()),
                Place::Last => TcAttachOptions::TcxOrder(LinkOrder::last()),
                Place::Filter(priority) => {
                    match qdisc_add_clsact(interface) {
                        Err(TcError::NetlinkError(error))
                            if error.raw_os_error() == Some(nix::libc::EEXIST) => {}
                        outcome => outcome?,
                    }
                    let handle = TcHandle::new(0, 1);
                    TcAttachOptions::Netlink(NlOptions { priority, handle, classid: None })
                }
            };
            program.attach_with_options(interface, TcAttachType::Ingress, options)?;
            Ok(Self(ebpf))
        })
    }
}

/// Linux 6.6 and newer.
pub fn has_tcx() -> bool {
    SchedClassifier::query_tcx("lo", TcAttachType::Ingress).is_ok()
}

/// `skb->mark |= bit; return answer;`
fn object(bit: i32, answer: i32) -> Result<Vec<u8>> {
    const MARK: i16 = 8; // in struct __sk_buff
    let instruction = |code: u8, registers: u8, offset: i16, number: i32| {
        let mut bytes = vec![code, registers];
        bytes.extend(offset.to_le_bytes());
        bytes.extend(number.to_le_bytes());
        bytes
    };
    let code = [
        instruction(0x61, 0x12, MARK, 0),   // r2 = r1->mark
        instruction(0x47, 0x02, 0, bit),    // r2 |= bit
        instruction(0x63, 0x21, MARK, 0),   // r1->mark = r2
        instruction(0xb7, 0x00, 0, answer), // r0 = answer
        instruction(0x95, 0x00, 0, 0),      // return r0
    ]
    .concat();
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let section = object.add_section(Vec::new(), b"classifier".to_vec(), SectionKind::Text);
    object.append_section_data(section, &code, 8);
    object.add_symbol(Symbol {
        name: b"other".to_vec(),
        value: 0,
        size: code.len() as u64,
        kind: SymbolKind::Text,
        scope: SymbolScope::Linkage,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    });
    Ok(object.write()?)
}
