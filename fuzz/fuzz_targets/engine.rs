#![no_main]

libfuzzer_sys::fuzz_target!(|tape: &[u8]| {
    if let Err(report) = weir_agent::simulate(tape) {
        panic!("{report}");
    }
});
