#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::over_messages_stream(data));
