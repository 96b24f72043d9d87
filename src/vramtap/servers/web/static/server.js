// Requests to the server.

/** Return the WebSocket URL of a path on this server. */
export function socketUrl(path) {
    const url = new URL(path, location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    return url.href;
}

/**
 * Get the targets.
 * @returns {Promise<{targets?: object[], refused?: string}>} The targets, or why the server refuses this page.
 *     Without either field the server does not answer.
 */
export async function fetchTargets() {
    let answer;
    try {
        answer = await fetch("/api/targets", { cache: "no-store" });
    } catch {
        return {};
    }
    if (answer.status === 403) {
        return { refused: (await answer.text()).trim() };
    }
    return answer.ok ? { targets: (await answer.json()).targets } : {};
}
