// Polls one branch each second as Flux's source-controller does: a clone at depth 1 that ends where the branch did not move.
//
//	flux URL BRANCH SECONDS
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/fluxcd/pkg/git"
	"github.com/fluxcd/pkg/git/gogit"
	"github.com/fluxcd/pkg/git/repository"
)

func main() {
	url, branch := os.Args[1], os.Args[2]
	seconds, err := strconv.Atoi(os.Args[3])
	if err != nil {
		panic(err)
	}
	observed := ""
	for count := 0; count <= seconds; count++ {
		start := time.Now()
		commit, err := poll(url, branch, observed)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		observed = commit
		time.Sleep(time.Second - time.Since(start))
	}
	fmt.Println(observed)
}

func poll(url, branch, observed string) (string, error) {
	folder, err := os.MkdirTemp("", "flux-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(folder)
	client, err := gogit.NewClient(folder, &git.AuthOptions{Transport: git.HTTP}, gogit.WithDiskStorage(), gogit.WithSingleBranch(true))
	if err != nil {
		return "", err
	}
	defer client.Close()
	commit, err := client.Clone(context.Background(), url, repository.CloneConfig{
		ShallowClone:       true,
		LastObservedCommit: observed,
		CheckoutStrategy:   repository.CheckoutStrategy{Branch: branch},
	})
	if err != nil {
		return "", err
	}
	return commit.String(), nil
}
