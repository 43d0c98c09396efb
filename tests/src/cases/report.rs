//! The page of `report` in a browser: it renders without an error, and its numbers equal those of `read --count` and of
//! `top --once`. Also the progress display on a terminal.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use dnstap_proto::{
    DnstapRef, MessageRef, SocketFamily, SocketProtocol, Timestamp,
    frame_streams::{DNSTAP_CONTENT_TYPE, Writer},
    message::Type,
};
use libtest_mimic::Trial;
use tempfile::TempDir;

use super::{for_each_hook_in_turn, trial};
use crate::{
    environment::{Combination, agent, tool},
    lab,
    load::client::UdpClient,
    process::output,
    tap::Tap,
    toy::{By, Puppet},
    wire,
};

/// Number of queries in the file; one of ten has no response.
const QUERIES: u16 = 1_000;

/// Rows of each table.
const ROWS: &str = "25";

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = of_files();
    trials.extend(for_each_hook_in_turn(
        "a tap writes a report of all that it recorded",
        tapped,
    ));
    trials
}

fn of_files() -> Vec<Trial> {
    [
        (
            "a browser shows the report without an error, with the numbers of read and top",
            rendered as fn() -> Result<()>,
        ),
        (
            "the report's tables can be sorted, and it follows a dark browser",
            alive,
        ),
        (
            "what takes longer than a second shows its progress on a terminal, and only there",
            progress,
        ),
        (
            "a report of a cut file is written, and says what is missing",
            cut,
        ),
    ]
    .map(|(name, test)| trial(name.to_owned(), test))
    .into()
}

fn tapped(how: &Combination) -> Result<()> {
    let scratch = lab::scratch()?;
    let mut puppet = Puppet::start()?;
    let (socket, address) = puppet.udp("127.0.0.1:0")?;
    let page = scratch.path().join("page.html");
    let output = format!("html:{}", page.display());
    let more = ["-o", &output, "--only", "client"];
    let tap = Tap::attach(scratch.path(), puppet.pid(), how, &more)?;
    let mut client = UdpClient::connect(address)?;
    for id in 0..20 {
        let query = wire::query(id, "often.lab", wire::TYPE_A, true);
        client.send(&query)?;
        puppet.receive(socket, By::Recvfrom, 512, 0)?;
        puppet.send(socket, By::Recvfrom, &wire::answer(&query))?;
        client.receive()?;
    }
    let tapped = tap.stop()?;
    ensure!(tapped.records()?.len() == 40, "{}", tapped.summary);
    let page = fs::read_to_string(&page)?;
    for stated in [
        "<span id=\"messages\">40</span>",
        "<td>often.lab.</td><td>20</td><td>100.0%</td>",
        "<dd id=\"filters\">--only client</dd>",
        "<dd id=\"losses\">none</dd>",
        &format!("(pid {})", puppet.pid()),
    ] {
        ensure!(page.contains(stated), "{stated}\n{page}");
    }
    Ok(())
}

fn rendered() -> Result<()> {
    let (scratch, file) = recorded()?;
    let page = report(scratch.path(), &file, &[])?;
    let browser = Browser::new(scratch.path())?;
    let shown = browser.open(&page, &[])?;
    ensure!(shown.console.is_empty(), "{:#?}", shown.console);
    // The script has run: it has turned the table heads into buttons.
    ensure!(shown.dom.contains("<th scope=\"col\"><button>"));
    ensure!(shown.dom.matches("<svg").count() == 4, "{}", shown.dom);
    ensure!(shown.dom.matches("<script").count() == 1, "injected markup");

    let counts = read_count(&file)?;
    let mut total = 0;
    for row in shown.rows("dnstap types")? {
        let count = row.last().context("a count")?;
        ensure!(
            counts.contains(&format!("{} {count}", row[0])),
            "{row:?} {counts:?}"
        );
        total += count.parse::<u64>()?;
    }
    ensure!(counts.contains(&format!("total {total}")), "{counts:?}");
    let messages = format!("<span id=\"messages\">{total}</span>");
    ensure!(shown.dom.contains(&messages), "{}", shown.dom);
    let mut top = Command::new(agent()?);
    top.args(["top", "--once", "--rows", ROWS]).arg(&file);
    let (top, _) = output(top)?;
    let tables: Vec<_> = top.split("\n\n").skip(1).collect();
    ensure!(tables.len() == 6, "{top}");
    for table in tables {
        let mut lines = table.lines();
        let title = lines.next().context("a title")?;
        let rows = shown.rows(title)?;
        let lines: Vec<_> = lines.skip(1).collect();
        ensure!(rows.len() == lines.len(), "{rows:?}\n{table}");
        for (row, line) in rows.iter().zip(lines) {
            let cells: Vec<_> = line.split_whitespace().collect();
            // The page has no column for queries from before the window.
            ensure!(
                cells.starts_with(&row.iter().map(String::as_str).collect::<Vec<_>>()),
                "{row:?} {cells:?}"
            );
        }
    }
    // The time-out of the last query has not passed yet.
    let fates = shown.rows("Queries by what became of them")?;
    ensure!(
        fates[0][..6] == ["CLIENT", "1000", "900", "99", "9.9%", "1"],
        "{fates:?}"
    );

    // The console must show an error if something on the page violates its policy.
    let broken = fs::read_to_string(&page)?.replace("<script nonce", "<script data-nonce");
    fs::write(&page, broken)?;
    let shown = browser.open(&page, &[])?;
    ensure!(!shown.console.is_empty() && !shown.dom.contains("<button>"));
    Ok(())
}

fn alive() -> Result<()> {
    let (scratch, file) = recorded()?;
    let page = report(scratch.path(), &file, &[])?;
    // A script replaces the user here; the policy would not let it run.
    let text = fs::read_to_string(&page)?;
    let (before, rest) = text.split_once("<meta http-equiv").context("a policy")?;
    let (_, after) = rest.split_once('>').context("its end")?;
    let doing = "<script>\
        const table = [...document.querySelectorAll('table')].find(one => one.caption?.textContent === 'Names by queries');\
        const count = table.querySelectorAll('button')[1];\
        count.click(); count.click();\
        document.title = getComputedStyle(document.body).backgroundColor;\
        </script></body>";
    fs::write(
        &page,
        format!("{before}{}", after.replace("</body>", doing)),
    )?;
    let browser = Browser::new(scratch.path())?;
    let mut colours = Vec::new();
    for scheme in [1, 0] {
        let shown = browser.open(
            &page,
            &[&format!("--blink-settings=preferredColorScheme={scheme}")],
        )?;
        ensure!(shown.console.is_empty(), "{:#?}", shown.console);
        let rows = shown.rows("Names by queries")?;
        let counts: Vec<u64> = rows
            .iter()
            .map(|row| row[1].parse())
            .collect::<Result<_, _>>()?;
        ensure!(counts.len() > 1 && counts.is_sorted(), "{counts:?}");
        let (_, title) = shown.dom.split_once("<title>").context("a title")?;
        let (title, _) = title.split_once('<').context("its end")?;
        colours.push(title.to_owned());
    }
    ensure!(
        colours == ["rgb(247, 247, 244)", "rgb(13, 13, 13)"],
        "{colours:?}"
    );
    Ok(())
}

fn cut() -> Result<()> {
    let (scratch, file) = recorded()?;
    let size = fs::metadata(&file)?.len();
    File::options().write(true).open(&file)?.set_len(size / 2)?;
    let page = scratch.path().join("page.html");
    let ended = Command::new(agent()?)
        .args(["report", "--only", "client-query", "-o"])
        .arg(&page)
        .arg(&file)
        .output()?;
    ensure!(ended.status.code() == Some(65), "{ended:?}");
    let page = fs::read_to_string(&page)?;
    for stated in ["is cut off at byte", "--only client-query", "CLIENT_QUERY"] {
        ensure!(page.contains(stated), "{stated}\n{page}");
    }
    ensure!(!page.contains("CLIENT_RESPONSE</td>"), "{page}");
    // The file itself is not overwritten.
    let refused = Command::new(agent()?)
        .arg("report")
        .args([file.as_path(), Path::new("-o"), file.as_path()])
        .output()?;
    ensure!(refused.status.code() == Some(64), "{refused:?}");
    ensure!(fs::metadata(&file)?.len() == size / 2);
    Ok(())
}

fn progress() -> Result<()> {
    let (scratch, file) = recorded()?;
    let halves = fs::read(&file)?;
    let (first, second) = halves.split_at(halves.len() / 2);
    let path = |name: &str| scratch.path().join(name);
    fs::write(path("first"), first)?;
    fs::write(path("second"), second)?;
    for (command, shows) in [
        ("read", true),
        ("report -o page", true),
        ("-q read", false),
        ("-q report -o page", false),
    ] {
        let line = format!(
            "cd {}; (cat first; sleep 1.2; cat second) | {} {command} - > out",
            scratch.path().display(),
            agent()?.display()
        );
        let mut plain = Command::new("sh");
        plain.args(["-c", &line]);
        let (_, warnings) = output(plain)?;
        ensure!(warnings.is_empty(), "{warnings}");
        // script(1) makes a terminal.
        let mut terminal = Command::new(tool("script")?);
        terminal.args(["-q", "-e", "-c", &line, "/dev/null"]);
        terminal.env("TERM", "xterm");
        let (screen, _) = output(terminal)?;
        if !shows {
            ensure!(screen.trim().is_empty(), "{command}: {screen:?}");
            continue;
        }
        for shown in [" messages ", "/s ", "KiB"] {
            ensure!(screen.contains(shown), "{command}: {shown:?} in {screen:?}");
        }
    }
    Ok(())
}

/// A file of queries over half an hour, most of them with responses.
fn recorded() -> Result<(TempDir, PathBuf)> {
    let scratch = lab::scratch()?;
    let path = scratch.path().join("recorded.fstrm");
    let mut writer = Writer::new(File::create(&path)?, DNSTAP_CONTENT_TYPE)?;
    for nth in 0..QUERIES {
        let name = match nth % 10 {
            0 => "<script>alert(1)</script>.evil.example",
            1..4 => "a.shop.co.uk",
            _ => "www.example.com",
        };
        let query = wire::query(
            nth,
            name,
            [wire::TYPE_A, wire::TYPE_TXT][usize::from(nth % 3 / 2)],
            true,
        );
        let mut answer = wire::answer(&query);
        // Response codes 0 to 3.
        answer[3] |= u8::try_from(nth % 7 / 2)?;
        let began = 1_800_000_000_000 + u64::from(nth) * 1_800;
        let took = 1 + u64::from(nth) % 300;
        let mut put = |kind, message: &[u8], times: [Option<u64>; 2]| {
            let time = |millis: u64| Timestamp {
                seconds: millis / 1_000,
                nanoseconds: u32::try_from(millis % 1_000 * 1_000_000).unwrap_or_default(),
            };
            let client = [192, 0, 2, u8::try_from(nth % 16).unwrap_or_default()];
            let mut about = MessageRef::new(kind);
            about.socket_family = Some(SocketFamily::Inet);
            about.socket_protocol =
                Some([SocketProtocol::Udp, SocketProtocol::Tcp][usize::from(nth % 20 == 0)]);
            about.query_address = Some(&client);
            about.query_port = Some(40_000);
            about.response_address = Some(&[192, 0, 2, 53]);
            about.query_time = times[0].map(time);
            about.response_time = times[1].map(time);
            if kind == Type::ClientQuery {
                about.query_message = Some(message);
            } else {
                about.response_message = Some(message);
            }
            let mut frame = Vec::new();
            DnstapRef {
                identity: Some(b"<b>server</b>"),
                version: None,
                extra: None,
                message: about,
            }
            .append_frame(&mut frame);
            // The writer adds the length by itself.
            writer.write_frame(&frame[4..])
        };
        put(Type::ClientQuery, &query, [Some(began), None])?;
        if nth % 10 != 9 {
            put(
                Type::ClientResponse,
                &answer,
                [Some(began), Some(began + took)],
            )?;
        }
    }
    writer.finish()?;
    Ok((scratch, path))
}

fn report(folder: &Path, file: &Path, options: &[&str]) -> Result<PathBuf> {
    let page = folder.join("page.html");
    let mut command = Command::new(agent()?);
    command.args(["report", "--rows", ROWS]).args(options);
    command.arg("-o").arg(&page).arg(file);
    let (_, warnings) = output(command)?;
    ensure!(warnings.is_empty(), "{warnings}");
    Ok(page)
}

fn read_count(file: &Path) -> Result<Vec<String>> {
    let mut read = Command::new(agent()?);
    read.args(["read", "--count"]).arg(file);
    let (counts, _) = output(read)?;
    Ok(counts.lines().map(str::to_owned).collect())
}

/// Chromium without a window.
pub(super) struct Browser {
    program: PathBuf,
    profile: PathBuf,
}

/// Result of showing a page.
pub(super) struct Shown {
    /// The document after its scripts have run.
    pub(super) dom: String,
    /// Lines of the console.
    pub(super) console: Vec<String>,
}

impl Browser {
    pub(super) fn new(folder: &Path) -> Result<Self> {
        Ok(Self {
            program: tool("chromium")?,
            profile: folder.join("profile"),
        })
    }

    fn open(&self, page: &Path, options: &[&str]) -> Result<Shown> {
        self.open_url(&format!("file://{}", page.display()), options)
    }

    pub(super) fn open_url(&self, url: &str, options: &[&str]) -> Result<Shown> {
        let mut command = Command::new(tool("timeout")?);
        command.arg("120").arg(&self.program);
        // As root, it refuses to run with its own sandbox.
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]);
        command.args(["--disable-dev-shm-usage", "--enable-logging=stderr"]);
        command.arg(format!("--user-data-dir={}", self.profile.display()));
        command.args(options).arg(url);
        let (dom, log) = output(command)?;
        let console = log.lines().filter(|line| line.contains("CONSOLE"));
        Ok(Shown {
            console: console.map(str::to_owned).collect(),
            dom,
        })
    }
}

impl Shown {
    /// Returns the cells of the table with this caption.
    fn rows(&self, caption: &str) -> Result<Vec<Vec<String>>> {
        let begin = format!("<caption>{caption}</caption>");
        let (_, table) = self.dom.split_once(&begin).with_context(|| begin.clone())?;
        let (table, _) = table.split_once("</table>").context("the table's end")?;
        let (_, body) = table.split_once("<tbody>").context("a body")?;
        let plain = |cell: &str| {
            let text = cell.split('<').next().unwrap_or_default();
            text.replace("&lt;", "<")
                .replace("&gt;", ">")
                .replace("&amp;", "&")
        };
        Ok(body
            .split("<tr>")
            .skip(1)
            .map(|row| row.split("<td>").skip(1).map(plain).collect())
            .collect())
    }
}
