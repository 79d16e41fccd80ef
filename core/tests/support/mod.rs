//! How the property tests write cases.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// As many cases as `PROPTEST_CASES` says, or `cases`.
pub fn config(cases: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
    ProptestConfig {
        cases: asked.unwrap_or(cases),
        failure_persistence: None,
        // A lost wake costs a crew's patience each time.
        max_shrink_time: 60_000,
        ..ProptestConfig::default()
    }
}

/// Less than so many words, each with a letter of these, which are as frequent as they stand there.
pub fn text(letters: &'static [u8], words: usize) -> impl Strategy<Value = String> {
    let digit = (0..16u8).prop_map(|digit| char::from(b'0' + digit));
    let word = (select(letters), vec(digit, 6))
        .prop_map(|(letter, digits)| char::from(letter).to_string() + &String::from_iter(digits));
    vec(word, 1..words).prop_map(|words| words.join(" "))
}
