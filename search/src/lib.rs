//! Finds tools by what they do, and estimates what a list of tools costs a model.
//!
//! Pure: texts in, positions and figures out. Knows no server, session, caller or configuration; no I/O, no clock, no
//! randomness in any result.

mod index;
mod near;
mod schema;
mod synonyms;
mod terms;
mod tokens;
mod tool;
mod words;

pub use index::{Hit, Index, Ranking};
pub use tokens::estimate_tokens;
pub use tool::{Document, IndexedTool};
