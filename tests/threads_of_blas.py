"""Threads of BLAS in a process of its own, where it has two: `python -m tests.threads_of_blas`.

It loads neither torch nor scikit-learn.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

from sklearn_vae.gaussian.observed import blas_threads, one_thread_for


def within(context, entered, leave):
    with context:
        entered.set()
        assert leave.wait(60)


def main():
    def numbers():
        return {library.num_threads for library in blas_threads().lib_controllers}

    assert numbers() == {2}
    events = [(threading.Event(), threading.Event()) for _ in range(2)]
    with ThreadPoolExecutor(2) as threads:
        fits = []
        for entered, leave in events:
            fits.append(threads.submit(within, one_thread_for(100), entered, leave))
            assert entered.wait(60)
            assert numbers() == {1}
        for (_, leave), made in zip(events, fits, strict=True):
            leave.set()
            made.result()
            assert numbers() == {2}
    with one_thread_for(100), one_thread_for(100):
        assert numbers() == {1}
    assert numbers() == {2}


if __name__ == "__main__":
    main()
