//! Options of `read`.

use std::path::PathBuf;

use clap::ColorChoice;

use super::Frames;
use crate::{formats::Content, select::Select};

/// Ways to write YAML.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum YamlStyle {
    /// The fields of JSON
    Json,
    /// What BIND's `dnstap-read -y` writes
    Bind,
}

/// Print dnstap files.
#[derive(Debug, Clone, clap::Args)]
pub struct Read {
    /// Frame Streams files of dnstap, also compressed by zstd, gzip, xz, bzip2 or lz4; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Format of the output
    #[arg(long, value_enum, default_value_t = Content::Text)]
    pub format: Content,

    /// Keys and layout of `--format yaml`: those of our JSON, or those of BIND's `dnstap-read -y` [default: json]
    #[arg(long, value_name = "STYLE", value_enum)]
    pub yaml_style: Option<YamlStyle>,

    /// End each line of `text` and `full` with the identity of the message, which names the server; JSON and YAML always have it
    #[arg(long)]
    pub show_identity: bool,

    /// Print only how many messages of each type there are
    #[arg(short, long, conflicts_with = "format")]
    pub count: bool,

    /// Follow the file as it grows and when it is rotated, until SIGINT or SIGTERM; it may be compressed by zstd
    #[arg(short, long)]
    pub follow: bool,

    /// Colour the text; `auto`: on a terminal, unless `NO_COLOR` is set
    #[arg(long, visible_alias = "color", value_name = "WHEN", value_enum, default_value_t = ColorChoice::Auto)]
    pub colour: ColorChoice,

    /// How frames are taken
    #[command(flatten)]
    pub frames: Frames,

    /// Which messages
    #[command(flatten)]
    pub select: Select,
}

impl Read {
    /// Returns mistakes in the combination of these options.
    #[must_use]
    pub fn mistakes(&self) -> Vec<String> {
        let is_one_file = self.files.len() == 1 && self.files[0].as_os_str() != "-";
        let followed = self.follow && !is_one_file;
        let styled = self.yaml_style.is_some() && self.format != Content::Yaml;
        let mistakes = [
            (
                followed,
                "--follow takes one file by its name; name one file, or leave out --follow",
            ),
            (styled, "--yaml-style is for YAML alone; add --format yaml"),
        ];
        let wrong = mistakes.into_iter().filter(|(wrong, _)| *wrong);
        wrong.map(|(_, text)| text.to_owned()).collect()
    }
}
