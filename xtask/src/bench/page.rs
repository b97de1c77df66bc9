//! The page of figures: what stands between two marks is replaced, the rest is written by hand.

use anyhow::Context as _;

/// Above the figures.
const BEGIN: &str = "<!-- figures: begin -->";

/// Below them.
const END: &str = "<!-- figures: end -->";

/// The page with these figures instead of its own.
///
/// # Errors
/// If it lacks one of the marks.
pub fn with_figures(page: &str, figures: &str) -> anyhow::Result<String> {
    let (above, rest) = page.split_once(BEGIN).with_context(|| format!("the page lacks the line {BEGIN}"))?;
    let (_, below) = rest.split_once(END).with_context(|| format!("the page lacks the line {END} below {BEGIN}"))?;
    Ok(format!("{above}{BEGIN}\n\n{}\n\n{END}{below}", figures.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_by_hand_stays_and_a_second_time_changes_nothing() {
        let page = "# Title\n\n<!-- figures: begin -->\nold\n<!-- figures: end -->\n\nProse.\n";
        let wanted = "# Title\n\n<!-- figures: begin -->\n\nnew\n\n<!-- figures: end -->\n\nProse.\n";
        let once = with_figures(page, "new\n").unwrap();
        assert_eq!(once, wanted);
        assert_eq!(with_figures(&once, "new\n").unwrap(), wanted);
    }

    #[test]
    fn a_page_without_marks_is_refused() {
        let refused = |page| with_figures(page, "new").unwrap_err().to_string();
        assert_eq!(refused("x"), "the page lacks the line <!-- figures: begin -->");
        let half = "<!-- figures: end --> <!-- figures: begin -->";
        assert_eq!(refused(half), "the page lacks the line <!-- figures: end --> below <!-- figures: begin -->");
    }
}
