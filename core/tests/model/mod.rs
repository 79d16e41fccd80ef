//! The reference models: what a counter and what a module host do, simple enough to be right, and
//! beside each the one way in which the real thing is driven and compared with it.
//!
//! A case is text: words, each a letter for what is done and a digit for each of its arguments. Any
//! bytes are a case: what makes no sense in a state is left out. Property tests write such texts
//! and drive the crate; the fuzz targets of `fuzz/` read the fuzzer's bytes as such, and drive the
//! C functions. The expected answers come from the model alone.

#![allow(dead_code, unreachable_pub, reason = "each program uses some of it")]

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod compiler;
pub mod counter;
pub mod crew;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub mod host;

/// A step, to be read.
#[derive(Clone)]
pub struct Word<'a>(&'a [u8]);

impl std::fmt::Debug for Word<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the word '{}'", self.0.escape_ascii())
    }
}

impl Word<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&first, left)) = self.0.split_first() else { return 0 };
        self.0 = left;
        first
    }

    /// A small letter; any byte stands for one.
    pub fn letter(&mut self) -> u8 {
        let byte = self.byte();
        if byte.is_ascii_lowercase() { byte } else { b'a' + byte % 26 }
    }

    /// 0 to 15; '0' to '9' are what they look like, and what is missing is 0.
    pub fn digit(&mut self) -> usize {
        usize::from(self.byte() & 15)
    }
}

pub fn words(text: &[u8]) -> impl Iterator<Item = Word<'_>> {
    text.split(|&byte| byte == b' ').map(Word)
}
