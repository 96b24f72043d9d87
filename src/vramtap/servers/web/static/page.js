// The page: the screen of one target, or a list of several targets.

import { Console } from "./console.js";
import { Live } from "./live.js";
import { fetchTargets } from "./server.js";

const byId = (id) => document.getElementById(id);

/** Remove the token from the address bar. The browser has it in a cookie now. */
function hideToken() {
    const url = new URL(location.href);
    if (url.searchParams.has("token")) {
        url.searchParams.delete("token");
        history.replaceState(null, "", url);
    }
}

function showList(targets) {
    byId("state").hidden = true;
    byId("target").textContent = `${targets.length} targets`;
    const list = byId("list");
    list.hidden = false;
    list.replaceChildren(...targets.map((target) => {
        const item = document.createElement("li");
        const link = document.createElement("a");
        link.href = `/t/${target.n}/`;
        const shot = document.createElement("span");
        shot.className = "shot";
        if (target.ended === null) {
            const picture = document.createElement("img");
            picture.alt = "";
            picture.src = `/api/screenshot.png?t=${target.n}`;
            picture.addEventListener("error", () => shot.replaceChildren("no picture"));
            shot.append(picture);
        } else {
            shot.append("no picture");
        }
        const name = document.createElement("span");
        name.className = "name";
        name.textContent = target.url;
        const facts = document.createElement("span");
        facts.className = target.ended === null ? "facts" : "facts ended";
        facts.textContent = target.ended ?? `${target.mode} · tracker ${target.tracker}`;
        link.append(shot, name, facts);
        item.append(link);
        return item;
    }));
}

function showScreen(target) {
    byId("target").textContent = target.url;
    byId("target").title = target.url;
    document.title = `${target.url} – vramtap`;
    byId("stage").hidden = false;
    byId("tools").hidden = false;
    byId("live").hidden = false;
    const live = new Live(byId("live"), target);
    const screen = new Console(byId("stage"), target, () => live.update());

    byId("keys").disabled = !target.input;
    byId("keys").addEventListener("click", () => screen.sendCtrlAltDel());
    byId("shot").href = `/api/screenshot.png?t=${target.n}`;
    byId("shot").addEventListener("click", () => screen.focus());
    byId("full").addEventListener("click", () => screen.toggleFullScreen());
    byId("scale").addEventListener("click", (event) => {
        screen.fit = !screen.fit;
        const button = event.currentTarget;
        button.setAttribute("aria-pressed", String(screen.fit));
        button.querySelector("span").textContent = screen.fit ? "Fit" : "1:1";
    });
    screen.start();
    live.start();
}

/** Return the target of this page: the one in the path, or the only one; undefined for the list. */
function targetOfPage(targets) {
    const path = /^\/t\/(\d+)\/?$/.exec(location.pathname);
    if (path) {
        return targets[Number(path[1])];
    }
    return targets.length === 1 ? targets[0] : undefined;
}

async function start() {
    hideToken();
    const answer = await fetchTargets();
    if (answer.targets === undefined) {
        byId("state").dataset.state = "refused";
        byId("state").textContent = answer.refused ?? "the server does not answer; reload the page";
        return;
    }
    const target = targetOfPage(answer.targets);
    if (target === undefined) {
        showList(answer.targets);
    } else {
        showScreen(target);
    }
}

start();
