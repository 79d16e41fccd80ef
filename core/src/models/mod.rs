//! What proves the protocol: models of it, and the two checkers that run them.
//!
//! | build              | backend of [`sync`](crate::sync) | what it is for                  |
//! | ------------------ | -------------------------------- | ------------------------------- |
//! | `--cfg loom`       | `loom`                           | memory orderings                |
//! | `--cfg interleave` | `interleave`                     | every interleaving, every state |

#[cfg(all(test, loom))]
mod bitmap;
#[cfg(interleave)]
pub(crate) mod interleave;
#[cfg(all(loom, not(interleave)))]
pub(crate) mod loom;
#[cfg(test)]
mod protocol;
#[cfg(all(test, loom))]
mod published;
