//! Explanations of access policies: who asks, about what, and the answer, which REST, the admin port and the command
//! line share. Decides nothing itself.

pub(crate) mod answer;
pub(crate) mod explainer;
pub(crate) mod question;
