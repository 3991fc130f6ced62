#!/usr/bin/env python3
"""Writes a plan as the comment of a pull request (GitHub, Gitea, Forgejo) or the note of a merge request (GitLab), or
replaces it.

Usage: python3 .margo-gitops/ci/comment.py plan.md

The comment is found again by its first line, among those of pipelines. Needs the variables of a pipeline and, as
GITHUB_TOKEN or PLAN_TOKEN, a token that may write comments; without one, or where it may not, the plan is only in the
pipeline. SSL_CERT_FILE names the certificates of a plant's own authority. Standard library only.
"""

import json
import os
import ssl
import sys
import urllib.error
import urllib.request
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 30
MOST_PAGES = 50
PAGE = 100
ACTIONS_OF_GITEA = -2
"""The id of the user that pipelines of Gitea and Forgejo have."""


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        plan = file.read()
    if os.environ.get("GITHUB_ACTIONS"):
        token, name = os.environ.get("GITHUB_TOKEN"), "GITHUB_TOKEN"
    else:
        token, name = os.environ.get("PLAN_TOKEN"), "PLAN_TOKEN"
    if not token:
        print(f"{name} is not set: the plan is not written as a comment")
        return 0
    try:
        print(github(plan, token) if name == "GITHUB_TOKEN" else gitlab(plan, token))
    except urllib.error.HTTPError as error:
        # A fork's pipeline may read only, as it should.
        print(f"the plan is not written as a comment: {error.code} {error.reason}", file=sys.stderr)
        return 0 if error.code in (401, 403, 404) else 3
    except (OSError, ValueError) as error:
        print(f"the plan is not written as a comment: {error}", file=sys.stderr)
        return 3
    return 0


def github(plan, token):
    """Write or replace the comment of the pull request that the event is about; returns what was done."""
    with open(os.environ["GITHUB_EVENT_PATH"], encoding="utf-8") as file:
        number = int(json.load(file)["pull_request"]["number"])
    repository = f"{os.environ['GITHUB_API_URL']}/repos/{os.environ['GITHUB_REPOSITORY']}"
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/vnd.github+json"}
    comments = f"{repository}/issues/{number}/comments"
    found = find(comments, headers, plan, by_a_pipeline)
    if found is None:
        request("POST", comments, headers, {"body": plan})
        return "the plan is a new comment"
    request("PATCH", f"{repository}/issues/comments/{found}", headers, {"body": plan})
    return "the plan replaces the comment"


def by_a_pipeline(comment):
    """Return whether no person wrote it: a person could change it later, and Gitea lets pipelines write into it."""
    author = comment.get("user") or {}
    return author.get("type") == "Bot" if "type" in author else author.get("id") == ACTIONS_OF_GITEA


def gitlab(plan, token):
    """Write or replace the note of the merge request that the pipeline is about; returns what was done."""
    project = f"{os.environ['CI_API_V4_URL']}/projects/{int(os.environ['CI_PROJECT_ID'])}"
    notes = f"{project}/merge_requests/{int(os.environ['CI_MERGE_REQUEST_IID'])}/notes"
    headers = {"PRIVATE-TOKEN": token}
    me = request("GET", f"{os.environ['CI_API_V4_URL']}/user", headers)["id"]
    found = find(notes, headers, plan, lambda each: each.get("author", {}).get("id") == me)
    if found is None:
        request("POST", notes, headers, {"body": plan})
        return "the plan is a new note"
    request("PUT", f"{notes}/{found}", headers, {"body": plan})
    return "the plan replaces the note"


def find(comments, headers, plan, is_ours):
    """Return the id of the comment of ours that starts as the plan does; None where there is none."""
    first, seen = plan.split("\n")[0], set()
    for page in range(1, MOST_PAGES + 1):
        listed = request("GET", f"{comments}?per_page={PAGE}&page={page}", headers)
        for each in listed:
            if (each.get("body") or "").split("\n")[0].strip() == first and is_ours(each):
                return int(each["id"])
        if seen.issuperset(each["id"] for each in listed):  # none is left, or each page has all, as on Gitea
            break
        seen.update(each["id"] for each in listed)
    return None


def request(method, url, headers, body=None):
    """Return what the host answers, as JSON."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"{url} is not an address of a git host")
    content = None if body is None else json.dumps(body).encode()
    headers = {**headers, "Content-Type": "application/json", "User-Agent": "margo-gitops"}
    asked = urllib.request.Request(url, data=content, headers=headers, method=method)
    opener = urllib.request.build_opener(NoRedirect, urllib.request.HTTPSHandler(context=tls()))
    with opener.open(asked, timeout=TIMEOUT_SECONDS) as answer:
        return json.load(answer)


def tls():
    """Return how a host is verified: alike on every Python. 3.13 refuses what plain `openssl req -x509` makes."""
    context = ssl.create_default_context()
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: it would carry the token to another host."""

    def redirect_request(self, *_):
        return None


if __name__ == "__main__":
    sys.exit(main())
